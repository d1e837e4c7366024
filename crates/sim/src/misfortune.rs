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
                self.agenda.after(delay_us, Event::DeathNews(host, node.incarnation.0, slot));
            }
        }
    }

    pub(crate) fn set_clock(&mut self) {
        if self.calm {
            return;
        }
        let by_ms = self.rng.below(20_000) as i64 - 10_000;
        self.note(format_args!("the wall clock is set by {by_ms} ms"));
        self.agenda.set_clock(by_ms);
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
}
