//! What a probe costs within the time that it measures: from the reading of the clock at a call's entry to that at its
//! return the kernel leaves one trap, runs or steps the probed instruction, and enters the next trap. A function that
//! takes a nanosecond reads as that much, so it is measured on empty functions of uprof's own, and told beside the
//! latencies.

use std::arch::naked_asm;
use std::path::PathBuf;

use anyhow::{Context, Result};
use uprof_ebpf::{
    Action, AttachExit, AttachSite, Capture, Engine, EngineOptions, Expr, FrameName, ProbeKind,
    ProbeSpec, Returns,
};
use uprof_symbols::site::Cost;

use crate::plan::Plan;

/// How often a function is called while it is measured; the quickest quarter of so many does not mind a busy machine.
const CALLS: usize = 2000;

// SAFETY (of the three): they take and give nothing, keep all registers but rax, and return.
#[unsafe(naked)]
extern "C" fn nop5() {
    naked_asm!(".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", "ret")
}

#[unsafe(naked)]
extern "C" fn emulated() {
    naked_asm!("push rbp", "pop rbp", "ret")
}

#[unsafe(naked)]
extern "C" fn stepped() {
    naked_asm!("xor eax, eax", "ret")
}

/// An empty function with a first instruction of that price, and how far its `ret` is from its start.
fn sample(cost: Cost) -> (extern "C" fn(), u64) {
    match cost {
        Cost::Nop5 => (nop5, 5),
        Cost::Emulated => (emulated, 2),
        Cost::SingleStepped => (stepped, 2),
    }
}

/// What decides over the cost: the price of the entry's instruction, how the return is seen, whether entry leaves more
/// than the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    entry: Cost,
    returns: Returns,
    saves: bool,
}

/// What has to be measured for a plan: a class for each variant that makes a distribution of latencies. Where its sites
/// differ it is the cheapest, so that never too much is taken off.
pub struct Calibration {
    classes: Vec<Option<Class>>,
    options: EngineOptions,
}

impl Calibration {
    /// Looks at the plan's calls; where no latencies are shown as a distribution, nothing is measured.
    pub fn of(plan: &Plan, options: EngineOptions) -> Self {
        let class = |v: &crate::plan::Variant| {
            let (ProbeKind::Call { saved, .. }, Action::Histogram { value, .. }) =
                (&v.spec.kind, &v.spec.action)
            else {
                return None;
            };
            if *value != Expr::Latency {
                return None;
            }
            Some(Class {
                entry: v.sites.iter().map(|s| s.site.cost).min()?,
                returns: v.pairing.returns,
                saves: !saved.is_empty(),
            })
        };
        Self {
            classes: plan.variants.iter().map(class).collect(),
            options: EngineOptions {
                max_frames: 64,
                ..options
            },
        }
    }

    /// Nanoseconds for each variant of the plan; `None` for those that show no latencies, or could not be measured.
    pub fn measure(self) -> Vec<Option<u64>> {
        let mut known: Vec<(Class, Option<u64>)> = Vec::new();
        self.classes
            .iter()
            .map(|class| {
                let class = (*class)?;
                if let Some((_, cost)) = known.iter().find(|(c, _)| *c == class) {
                    return *cost;
                }
                let cost = measured(class, &self.options).ok();
                known.push((class, cost));
                cost
            })
            .collect()
    }
}

fn measured(class: Class, options: &EngineOptions) -> Result<u64> {
    let (function, to_ret) = sample(class.entry);
    let offset = file_offset(function as usize as u64)?;
    let saved = match class.saves {
        true => vec![Capture::Int(Expr::Const(0))],
        false => Vec::new(),
    };
    let spec = ProbeSpec {
        on: uprof_ebpf::On::Program,
        sample: 1,
        name: "calibrate".into(),
        sites: 1,
        kind: ProbeKind::Call {
            saved,
            filter: None,
            returns: class.returns,
            frame: FrameName::Stack,
        },
        filter: None,
        keep: None,
        action: Action::Histogram {
            value: Expr::Latency,
            key: Vec::new(),
            scale: uprof_ebpf::Scale::Log,
        },
    };
    let site = AttachSite {
        path: PathBuf::from("/proc/self/exe"),
        offset,
        site: 0,
        semaphore: None,
        exits: vec![AttachExit {
            offset: offset + to_ret,
            condition: None,
            jump: false,
        }],
    };
    let mut engine = Engine::load(vec![spec], options)?;
    engine.attach(0, &[site], Some(std::process::id()))?;
    for _ in 0..CALLS {
        function();
    }
    engine.detach();
    let histograms = engine.histograms(0)?;
    let (_, data) = histograms.first().context("no call was seen")?;
    Ok(data.quantile(0.25))
}

/// Where the code at an address of this process lies in its file.
fn file_offset(address: u64) -> Result<u64> {
    let maps = procfs::process::Process::myself()?.maps()?;
    let map = maps
        .iter()
        .find(|m| (m.address.0..m.address.1).contains(&address))
        .context("uprof's own code is not mapped")?;
    Ok(map.offset + (address - map.address.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are what the prices are about.
    #[test]
    fn samples_are_what_they_are_called() {
        let starts: [(Cost, &[u8]); 3] = [
            (Cost::Nop5, &[0x0f, 0x1f, 0x44, 0, 0, 0xc3]),
            (Cost::Emulated, &[0x55, 0x5d, 0xc3]),
            (Cost::SingleStepped, &[0x31, 0xc0, 0xc3]),
        ];
        let own = std::fs::read("/proc/self/exe").unwrap();
        for (cost, bytes) in starts {
            let (function, to_ret) = sample(cost);
            let at = file_offset(function as usize as u64).unwrap() as usize;
            assert_eq!(&own[at..at + bytes.len()], bytes, "{cost:?}");
            assert_eq!(to_ret as usize + 1, bytes.len(), "{cost:?}");
            function();
        }
    }
}
