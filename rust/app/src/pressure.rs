//! Memory pressure: measured on the side runtime, acted on by the workers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pymesh_engine::overload::Overload;
use pymesh_model::overload::OverloadAction;

/// So often free memory is given back to the system while there is pressure: what is in use may be much less than what
/// the process holds, and by that it is measured.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// The last measurements, for the admin pages.
pub(crate) struct Pressure {
    overload: Arc<Overload>,
    /// For each memory monitor: its limit in octets, and how much of that is used, in percent.
    memory: Vec<(u64, AtomicU64)>,
}

impl Pressure {
    pub fn new(overload: Arc<Overload>) -> Pressure {
        let monitors = &overload.settings().monitors;
        // Without any limit there is no pressure.
        let limit = |limit: Option<u64>| limit.or_else(control_group_limit).unwrap_or(u64::MAX);
        let memory = monitors.iter().map(|monitor| (limit(monitor.limit), AtomicU64::new(0))).collect();
        Pressure { overload, memory }
    }

    /// What is watched.
    pub fn overload(&self) -> &Arc<Overload> {
        &self.overload
    }

    /// Measures again and again.
    pub async fn watch(self: Arc<Self>) {
        if self.memory.iter().all(|(limit, _)| *limit == u64::MAX) {
            return;
        }
        let mut ticks = tokio::time::interval(self.overload.settings().refresh_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut given = None::<Instant>;
        loop {
            ticks.tick().await;
            if self.is_pressed(resident_octets()) && given.is_none_or(|at| at.elapsed() >= GIVE_BACK) {
                pymesh_net::give_back();
                given = Some(Instant::now());
            }
            self.apply(resident_octets());
        }
    }

    /// Whether anything is to be done about so much memory.
    fn is_pressed(&self, resident: u64) -> bool {
        OverloadAction::ALL.into_iter().any(|action| self.is_due(action, resident))
    }

    fn is_due(&self, action: OverloadAction, resident: u64) -> bool {
        let settings = self.overload.settings();
        settings.triggers.iter().filter(|trigger| trigger.action == action).any(|trigger| {
            let monitors = settings.monitors.iter().zip(&self.memory);
            let mut named = monitors.filter(|(monitor, _)| monitor.name == trigger.monitor);
            named.any(|(_, (limit, _))| share(resident, *limit) >= trigger.threshold)
        })
    }

    /// Switches actions by how much memory is in use.
    fn apply(&self, resident: u64) {
        for (limit, percent) in &self.memory {
            percent.store((share(resident, *limit) * 100.0) as u64, Ordering::Relaxed);
        }
        for action in OverloadAction::ALL {
            self.overload.set_active(action, self.is_due(action, resident));
        }
    }

    /// Gauges under Envoy's names.
    pub fn gauges(&self) -> Vec<(String, u64)> {
        let settings = self.overload.settings();
        let (open, most) = self.overload.connections();
        let monitors = settings.monitors.iter().zip(&self.memory);
        let mut gauges: Vec<(String, u64)> = monitors
            .map(|(monitor, (_, percent))| {
                (format!("overload.{}.pressure", monitor.name), percent.load(Ordering::Relaxed))
            })
            .collect();
        let name = "overload.envoy.resource_monitors.global_downstream_max_connections.pressure";
        gauges.push((name.to_owned(), (share(open, most) * 100.0) as u64));
        gauges.push(("overload.global_downstream_max_connections".to_owned(), most));
        for action in OverloadAction::ALL {
            let is_active = u64::from(self.overload.is_active(action));
            gauges.push((format!("overload.{}.active", action.name()), is_active));
        }
        gauges
    }
}

fn share(used: u64, limit: u64) -> f64 {
    used as f64 / limit.max(1) as f64
}

/// Resident memory (proc(5), `statm`, second field, in pages of 4 KiB on every supported platform).
pub(crate) fn resident_octets() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// The least memory limit of the process's control group and those above it (cgroups(7), both versions).
fn control_group_limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    own.lines().filter_map(memory_group).filter_map(|(root, group, file)| limit_of(&root, &group, file)).min()
}

/// Where a line of `/proc/self/cgroup` has its memory limit: root, path below it, file.
fn memory_group(line: &str) -> Option<(PathBuf, PathBuf, &'static str)> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    let group = PathBuf::from(group.trim_start_matches('/'));
    if controllers.is_empty() {
        return Some(("/sys/fs/cgroup".into(), group, "memory.max"));
    }
    let is_memory = controllers.split(',').any(|controller| controller == "memory");
    is_memory.then(|| ("/sys/fs/cgroup/memory".into(), group, "memory.limit_in_bytes"))
}

fn limit_of(root: &Path, group: &Path, file: &str) -> Option<u64> {
    // No limit is `max` in version 2 and a number beyond all memory in version 1.
    let limit = |folder: &Path| std::fs::read_to_string(root.join(folder).join(file)).ok()?.trim().parse::<u64>().ok();
    group.ancestors().filter_map(limit).filter(|limit| *limit < 1 << 60).min()
}

#[cfg(test)]
mod tests {
    use pymesh_model::overload::{Monitor, OverloadManager, Trigger};

    use super::*;

    #[test]
    fn actions_follow_the_pressure_both_ways() {
        let trigger = |action, threshold| Trigger { action, monitor: "heap".into(), threshold };
        let settings = OverloadManager {
            monitors: vec![Monitor { name: "heap".into(), limit: Some(1000) }],
            triggers: vec![
                trigger(OverloadAction::DisableHttpKeepalive, 0.92),
                trigger(OverloadAction::StopAcceptingRequests, 0.95),
            ],
            ..OverloadManager::default()
        };
        let overload = Arc::new(Overload::new(settings, 10));
        let pressure = Pressure::new(overload.clone());
        for (resident, keepalive, requests) in
            [(919, false, false), (920, true, false), (950, true, true), (10, false, false)]
        {
            pressure.apply(resident);
            assert_eq!(overload.is_active(OverloadAction::DisableHttpKeepalive), keepalive, "{resident}");
            assert_eq!(overload.is_active(OverloadAction::StopAcceptingRequests), requests, "{resident}");
        }
        assert!(pressure.gauges().contains(&("overload.heap.pressure".to_owned(), 1)));
    }

    #[test]
    fn limits_of_both_versions_of_control_groups_are_found() {
        let root = std::env::temp_dir().join(format!("pymesh-cgroup-{}", std::process::id()));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/memory.max"), "5000\n").unwrap();
        std::fs::write(root.join("a/b/memory.max"), "max\n").unwrap();
        let (_, group, file) = memory_group("0::/a/b").unwrap();
        assert_eq!(limit_of(&root, &group, file), Some(5000));
        std::fs::write(root.join("a/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        let (_, group, file) = memory_group("4:memory,cpu:/a").unwrap();
        assert_eq!(limit_of(&root, &group, file), None);
        assert_eq!(memory_group("5:cpuset:/a"), None);
        std::fs::remove_dir_all(root).unwrap();
    }
}
