#!/bin/sh
# The first program of a node's container: what only the container can do for the node, then the node.
set -eu

image=localhost/warren/default:latest
cgroups=/sys/fs/cgroup

# Sandboxes get cgroups below the container's own, which Docker shows read-only.
while read -r _ point type _; do
    case $type in
        cgroup | cgroup2) mount -o remount,bind,rw,nosuid,nodev,noexec "$point" ;;
    esac
done </proc/self/mounts

# In version 2 a group that holds processes gives no controllers to groups below, so ours go one down. Only where the
# container has a namespace of cgroups to itself: elsewhere the top group is the host's, and has controllers.
give_controllers() {
    mkdir -p "$cgroups/node"
    while read -r pid; do
        # One that has ended meanwhile needs no other place.
        echo "$pid" >"$cgroups/node/cgroup.procs" || true
    done <"$cgroups/cgroup.procs" 2>/dev/null
    sed 's/[^ ][^ ]*/+&/g' "$cgroups/cgroup.controllers" >"$cgroups/cgroup.subtree_control"
}
if [ -e "$cgroups/cgroup.controllers" ] && [ "$(cat /proc/self/cgroup)" = "0::/" ]; then
    # A process may have come in between: a look at the node's health, most likely.
    give_controllers || give_controllers || give_controllers
fi

# Docker covers parts of /proc and /sys, and the kernel lets a user namespace mount new ones only where whole ones are
# in sight, not even read-only: sandboxes could not start. So there is a whole one of each, where nobody looks.
mkdir -m 0700 /run/whole
for type in proc sysfs; do
    mkdir "/run/whole/$type"
    mount -t "$type" -o nosuid,nodev,noexec "$type" "/run/whole/$type"
done

# Docker shows these read-only too, though they are of the container's own network alone: bridges for sandboxes need them.
mount --bind /run/whole/proc/sys/net /proc/sys/net

# The image that a sandbox gets when it names none; again when the container's own is another one.
digest=$(cat /usr/share/warren/sandbox.digest)
label=io.warren.recipe
has=$(podman image inspect --format "{{index .Labels \"$label\"}}" "$image" 2>/dev/null || true)
if [ "$has" != "$digest" ]; then
    podman import --quiet \
        --change "LABEL $label=$digest" \
        --change "USER sandbox" \
        --change "WORKDIR /home/sandbox" \
        --change "ENV LANG=C.UTF-8" \
        --change "ENV PATH=/home/sandbox/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        --change 'CMD ["/bin/bash"]' \
        /usr/share/warren/sandbox.tar "$image"
fi

# By environment, since arguments are everybody's to read.
if [ -n "${TOKEN_FILE:-}" ]; then
    WARREN_JOIN_TOKEN=$(cat "$TOKEN_FILE")
    export WARREN_JOIN_TOKEN
fi
exec warren node "$@"
