//! What befalls the world in a storm beside crashes: deaths, a clock that is set, images that change or break.

use types::SandboxId;
use warren_core::warm_pool::Input as PoolInput;
use warren_core::wiring::Message;

use crate::agenda::Event;
use crate::clients::TEMPLATE_IMAGE;
use crate::world::World;

impl World {
    pub(crate) fn death(&mut self, host: usize) {
        if let Some(slot) = self.hosts[host].engine.any_running(&mut self.rng) {
            self.death_of(host, slot);
        }
        self.later(self.weather.death_every_us, Event::Death(host));
    }

    pub(crate) fn death_of(&mut self, host: usize, slot: SandboxId) {
        if self.hosts[host].engine.death(slot) {
            self.note(format_args!("{slot} dies by itself"));
            let delay_us = self.rng.between(1, self.weather.news_us_max);
            if let Some(node) = &self.hosts[host].node {
                self.agenda.after(delay_us, Event::DeathNews(host, node.life, slot));
            }
        }
    }

    pub(crate) fn set_clock(&mut self) {
        if self.calm {
            return;
        }
        let by_ms = self.rng.below(20_000) as i64 - 10_000;
        let host = self.rng.index(self.hosts.len());
        self.note(format_args!("the wall clock of {host} is set by {by_ms} ms"));
        self.agenda.set_clock(host, by_ms);
        self.later(self.weather.clock_set_every_us, Event::ClockSet);
    }

    pub(crate) fn retarget(&mut self) {
        if self.calm {
            return;
        }
        self.image_version += 1;
        let version = self.image_version;
        self.note(format_args!("the template's image is version {version}"));
        let target = self.target();
        for host in 0..self.hosts.len() {
            let target = target.clone();
            self.with_node(host, None, |node, out| {
                node.route(Message::Pool(PoolInput::Retarget(target)), out);
            });
        }
        self.later(self.weather.retarget_every_us, Event::Retarget);
    }

    pub(crate) fn broken(&mut self, broken: bool) {
        if self.calm {
            return;
        }
        self.note(format_args!("the template's image is broken: {broken}"));
        let image = broken.then(|| TEMPLATE_IMAGE.to_owned());
        self.hosts.iter_mut().for_each(|host| host.engine.broken_image.clone_from(&image));
        self.later(self.weather.broken_every_us, Event::Broken(!broken));
    }

    /// Some hosts can not reach others for a while, or only one way.
    pub(crate) fn cut(&mut self) {
        if self.calm {
            return;
        }
        let some: Vec<usize> = (0..self.hosts.len()).filter(|_| self.rng.chance(400_000)).collect();
        let others: Vec<usize> = (0..self.hosts.len()).filter(|host| !some.contains(host)).collect();
        if !some.is_empty() && !others.is_empty() {
            let ways = self.rng.below(4);
            let lasts_us = self.rng.between(100_000, self.weather.cut_us_max);
            self.note(format_args!("{some:?} and {others:?} are cut, in way {ways}, for {lasts_us} us"));
            if ways != 0 {
                let number = self.network.cut(some.clone(), others.clone());
                self.agenda.after(lasts_us, Event::Healed(number));
            }
            if ways != 1 {
                let number = self.network.cut(others, some);
                self.agenda.after(lasts_us, Event::Healed(number));
            }
        }
        self.later(self.weather.cut_every_us, Event::Cut);
    }

    /// Some node dies.
    pub(crate) fn some_crash(&mut self) {
        if self.calm {
            return;
        }
        let host = self.rng.index(self.hosts.len());
        self.crash(host, "kill -9");
        self.later(self.weather.crash_every_us, Event::Crash);
    }

    /// Some node's process stands still for a while; its containers and its agents go on.
    pub(crate) fn stands_still(&mut self) {
        if self.calm {
            return;
        }
        let host = self.rng.index(self.hosts.len());
        let lasts_us = self.rng.between(100_000, self.weather.still_us_max);
        self.note(format_args!("{host} stands still for {lasts_us} us"));
        self.hosts[host].still_until_us = self.agenda.now_us() + lasts_us;
        self.later(self.weather.still_every_us, Event::StandsStill);
    }

    /// Some host loses its log and comes back as a new member. Only while all others that vote have theirs.
    pub(crate) fn store_lost(&mut self) {
        if self.calm {
            return;
        }
        let members = self.hosts.iter().filter_map(|host| host.node.as_ref()).find(|node| node.leadership.is_self);
        let members = members.map(|node| node.consensus.members()).unwrap_or_default();
        let borne = |id: &u64| self.hosts.iter().any(|host| host.member == Some(*id));
        let whole = members.voters.len() == 3 && members.voters_outgoing.is_empty() && members.voters.iter().all(borne);
        let host = self.rng.index(self.hosts.len());
        if whole {
            self.crash(host, "its log is lost");
            let disk = std::mem::take(&mut self.hosts[host].disk);
            if let Some(member) = self.hosts[host].member.take() {
                self.lost_disks.insert(member, disk);
            }
            self.hosts[host].first = false;
        }
        self.later(self.weather.store_lost_every_us, Event::StoreLost);
    }
}
