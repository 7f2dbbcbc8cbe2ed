//! Reading what the programs left: counters, histograms, counts, records.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::Engine;
use crate::error::Error;
use crate::hist::{self, HistData, LinearData};
use crate::key::KeyBytes;
use crate::layout::{Counter, WAKE_SENT, header, hist_words, kept_stack, table_value};
use crate::load::Loaded;
use crate::record::Record;
use crate::spec::{Action, ProbeKind, Scale};
use crate::stats::{BreakdownData, Counters, StatsData};
use crate::sys;

/// What the ring buffer puts before each record (BPF_RINGBUF_HDR_SZ).
const RING_HEADER: u32 = 8;

impl Engine {
    fn words(&self, probe: usize) -> impl Iterator<Item = usize> + '_ {
        let layout = &self.target.state;
        let block = layout.blocks.get(probe).map(|b| b.offset);
        (0..layout.shards).filter_map(move |shard| {
            Some((layout.first_shard + shard * layout.stride + block?) as usize)
        })
    }

    fn counter(&self, probe: usize, counter: Counter) -> u64 {
        self.words(probe)
            .map(|base| self.state.word(base + 8 * counter as usize))
            .sum()
    }

    /// The accounting of a probe; zeros for an unknown one.
    pub fn counters(&self, probe: usize) -> Counters {
        // Outcomes before hits: while attached, a hit may not have ended yet, never the reverse.
        let mut counters = Counters {
            emitted: self.counter(probe, Counter::Emitted),
            aggregated: self.counter(probe, Counter::Aggregated),
            filtered: self.counter(probe, Counter::Filtered),
            unsampled: self.counter(probe, Counter::Unsampled),
            dropped_ring: self.counter(probe, Counter::DroppedRing),
            dropped_map: self.counter(probe, Counter::DroppedMap),
            nested: self.counter(probe, Counter::Nested),
            unreadable: self.counter(probe, Counter::Unreadable),
            abandoned: self.counter(probe, Counter::Abandoned),
            missed: self.missed(probe),
            ..Counters::default()
        };
        counters.hits = self.counter(probe, Counter::Hits);
        let ended = counters.emitted
            + counters.aggregated
            + counters.filtered
            + counters.unsampled
            + counters.dropped();
        if let Some(ProbeKind::Call { .. }) = self.probes.get(probe).map(|p| &p.kind) {
            counters.unpaired = counters.hits.saturating_sub(ended);
        }
        counters
    }

    fn missed(&self, probe: usize) -> Option<u64> {
        let loaded = self.loaded.get(probe)?;
        let hooked = self.hooked.iter().filter(|h| h.probe == probe);
        let hooked = hooked.flat_map(|h| &h.programs);
        let own = self
            .per_site
            .iter()
            .filter(|(of, _)| of.0 == probe)
            .map(|(_, prog)| prog);
        let retired = self.retired.get(probe).copied().unwrap_or(0);
        Some(
            retired
                + misses(
                    own.chain(loaded.iter().flat_map(Loaded::programs))
                        .chain(hooked),
                )?,
        )
    }

    /// Hits per site index; for a count without a key, what its filters let through.
    pub fn site_hits(&self, probe: usize) -> Vec<u64> {
        let Some(spec) = self.probes.get(probe) else {
            return Vec::new();
        };
        let Some(sites) = self.target.state.blocks[probe].sites else {
            let counts = matches!(&spec.action, Action::Count { key } if key.is_empty());
            let which = if counts {
                Counter::Aggregated
            } else {
                Counter::Hits
            };
            return vec![self.counter(probe, which)];
        };
        let mut hits = vec![0u64; spec.sites as usize];
        for base in self.words(probe) {
            for (i, hit) in hits.iter_mut().enumerate() {
                *hit += self.state.word(base + sites as usize + 8 * i);
            }
        }
        hits
    }

    /// Every key and value of a keyed aggregation.
    fn entries(&self, probe: usize, mut each: impl FnMut(KeyBytes, &[u8])) -> Result<(), Error> {
        let (Some(Some(map)), Some(Some(layout))) =
            (self.maps.tables.get(probe), self.keys.get(probe))
        else {
            return Ok(());
        };
        let fd = map.fd().as_fd();
        let failed = |source| Error::Read {
            what: format!("keys of {}", self.probes[probe].name),
            source,
        };
        let mut value = vec![0u8; table_value(&self.probes[probe].action) as usize];
        let mut key: Option<Vec<u8>> = None;
        loop {
            let mut next = vec![0u8; layout.size as usize];
            if !sys::map_next_key(fd, key.as_deref(), &mut next).map_err(failed)? {
                return Ok(());
            }
            if sys::map_lookup(fd, &next, &mut value).map_err(failed)? {
                each(KeyBytes::new(next.clone(), Arc::clone(layout)), &value);
            }
            key = Some(next);
        }
    }

    /// What a probe aggregated by key; without a key of all shards together, with an empty key.
    /// `decode` has the words of one value, and gives nothing for one that has had no hits.
    fn aggregates<T>(
        &self,
        probe: usize,
        decode: impl Fn(&dyn Fn(usize) -> u64) -> Option<T>,
        merge: impl Fn(&mut T, &T),
    ) -> Result<Vec<(KeyBytes, T)>, Error> {
        let mut all = Vec::new();
        if let Some(at) = self.target.state.blocks[probe].unkeyed {
            let shard = |base| decode(&|word| self.state.word(base + at as usize + 8 * word));
            let sum = self.words(probe).filter_map(shard).reduce(|mut sum, one| {
                merge(&mut sum, &one);
                sum
            });
            if let (Some(sum), Some(Some(layout))) = (sum, self.keys.get(probe)) {
                all.push((KeyBytes::new(Vec::new(), Arc::clone(layout)), sum));
            }
            return Ok(all);
        }
        self.entries(probe, |key, value| {
            let word = |i: usize| {
                let bytes = value[8 * i..8 * i + 8].try_into().unwrap_or_default();
                u64::from_ne_bytes(bytes)
            };
            all.extend(decode(&word).map(|data| (key, data)));
        })?;
        Ok(all)
    }

    /// The histograms of a probe by key; without a key one with an empty key, if it has values.
    pub fn histograms(&self, probe: usize) -> Result<Vec<(KeyBytes, HistData)>, Error> {
        match self.probes.get(probe).map(|p| &p.action) {
            Some(Action::Histogram {
                scale: Scale::Log, ..
            })
            | Some(Action::Breakdown { .. }) => self.aggregates(
                probe,
                |word| Some(decode_hist(word)).filter(|hist| hist.count > 0),
                HistData::merge,
            ),
            _ => Ok(Vec::new()),
        }
    }

    /// Where the time of a probe's calls went, by key as [`Engine::histograms`].
    pub fn breakdowns(&self, probe: usize) -> Result<Vec<(KeyBytes, BreakdownData)>, Error> {
        match self.probes.get(probe).map(|p| &p.action) {
            Some(Action::Breakdown { .. }) => self.aggregates(
                probe,
                |word| Some(BreakdownData::decode(word)).filter(|data| data.calls > 0),
                BreakdownData::merge,
            ),
            _ => Ok(Vec::new()),
        }
    }

    /// The linear histograms of a probe by key; without a key one with an empty key, if it has
    /// values.
    pub fn linear(&self, probe: usize) -> Result<Vec<(KeyBytes, LinearData)>, Error> {
        match self.probes.get(probe).map(|p| &p.action) {
            Some(Action::Histogram {
                scale: Scale::Linear { buckets, .. },
                ..
            }) => self.aggregates(
                probe,
                |word| LinearData::decode(*buckets, word),
                LinearData::merge,
            ),
            _ => Ok(Vec::new()),
        }
    }

    /// The statistics of a probe by key; without a key one with an empty key, if it has hits.
    pub fn stats(&self, probe: usize) -> Result<Vec<(KeyBytes, StatsData)>, Error> {
        match self.probes.get(probe).map(|p| &p.action) {
            Some(Action::Stats { values, .. }) => self.aggregates(
                probe,
                |word| StatsData::decode(values.len(), word),
                StatsData::merge,
            ),
            _ => Ok(Vec::new()),
        }
    }

    /// The counts of a probe by key; without a key see [`Engine::site_hits`].
    pub fn counts(&self, probe: usize) -> Result<Vec<(KeyBytes, u64)>, Error> {
        let mut all = Vec::new();
        if let Some(Action::Count { .. }) = self.probes.get(probe).map(|p| &p.action) {
            self.entries(probe, |key, value| {
                let count = value.try_into().map_or(0, u64::from_ne_bytes);
                all.push((key, count));
            })?;
        }
        Ok(all)
    }

    /// The stack with this number ([`crate::KeyValue::Stack`]): addresses, innermost first; of at
    /// most [`crate::MAX_STACK_FRAMES`], where it is that long it may have been cut. `None`: no
    /// such stack is kept.
    pub fn stack(&self, id: u64) -> Option<Vec<u64>> {
        if id == 0 {
            return Some(Vec::new());
        }
        let map = self.maps.stacks.as_ref()?.fd().as_fd();
        let mut kept = vec![0; kept_stack::SIZE as usize];
        let found = sys::map_lookup(map, &id.to_ne_bytes(), &mut kept);
        if !found.is_ok_and(|found| found) {
            return None;
        }
        let mut words = kept
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
        let frames = words.next()? as usize / 8;
        Some(words.take(frames).collect())
    }

    /// The ring buffer's descriptor to poll: readable when much has piled up. Drain it every
    /// 20 ms or so besides. `None`: no probe sends events.
    pub fn ring_fd(&self) -> Option<RawFd> {
        self.ring.as_ref().map(|ring| ring.as_raw_fd())
    }

    /// Hands out the records that have piled up; returns how many there were. It ends even where
    /// programs write faster than this reads: after as many as the ring can hold, so that once
    /// detached one call gets all.
    pub fn drain(&mut self, mut each: impl FnMut(Record<'_>)) -> Result<usize, Error> {
        let Some(ring) = &mut self.ring else {
            return Ok(0);
        };
        let most = self.target.ring_bytes / (RING_HEADER + header::SIZE);
        let mut count = 0;
        for _ in 0..=most {
            let Some(item) = ring.next() else {
                break;
            };
            if let Some(record) = Record::decode(&item, &self.layouts) {
                each(record);
                count += 1;
            }
        }
        self.state.set_word(WAKE_SENT as usize, 0);
        Ok(count)
    }
}

/// Times that the kernel did not run one of these programs.
pub(super) fn misses<'a>(mut programs: impl Iterator<Item = &'a OwnedFd>) -> Option<u64> {
    programs.try_fold(0, |sum, prog| {
        Some(sum + sys::prog_info(prog.as_fd()).ok()?.recursion_misses)
    })
}

fn decode_hist(word: impl Fn(usize) -> u64) -> HistData {
    let buckets: Vec<u64> = (0..hist::BUCKETS)
        .map(|i| word(hist_words::BUCKETS + i))
        .collect();
    let count = buckets.iter().sum();
    HistData {
        count,
        sum: u128::from(word(hist_words::CARRY)) << 64 | u128::from(word(hist_words::SUM)),
        min: if count == 0 {
            0
        } else {
            !word(hist_words::NOT_MIN)
        },
        max: word(hist_words::MAX),
        buckets,
    }
}
