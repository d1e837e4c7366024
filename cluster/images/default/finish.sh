#!/bin/sh
# The last step of the default image, run inside its file system by every way of making it.
set -eu

user=sandbox
uid=1000

# Some bases bring a user of their own under our uid.
other=$(getent passwd "$uid" | cut -d: -f1)
if [ -n "$other" ] && [ "$other" != "$user" ]; then
    userdel --remove "$other" 2>/dev/null || userdel "$other"
fi
if ! getent passwd "$user" >/dev/null; then
    getent group "$user" >/dev/null || groupadd --gid "$uid" "$user"
    useradd --uid "$uid" --gid "$uid" --create-home --shell /bin/bash "$user"
fi
chmod 0755 "/home/$user"

# The sandbox is the virtual environment: `pip install` may write where it likes.
printf '[global]\nbreak-system-packages = true\ndisable-pip-version-check = true\n' >/etc/pip.conf

# apt must still work for root, so its lists are dropped but its sources stay.
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
rm -rf /var/cache/debconf/*-old /var/cache/ldconfig/* /var/lib/dpkg/*-old /var/log/apt /var/log/*.log
# Names of the host that a bootstrap leaves behind. In a build step they are mounts and go by themselves.
rm -f /etc/hostname /etc/resolv.conf 2>/dev/null || true
: >/etc/machine-id
mkdir -p /var/lib/apt/lists/partial /var/log/apt
