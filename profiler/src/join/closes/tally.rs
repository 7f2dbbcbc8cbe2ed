//! Tallies added up: by verdict and role, and by the peer's address.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::report::model::{Count, Event, Table, Value};

/// The words that `verdict` may be.
pub const VERDICTS: [&str; 6] = ["app", "peer", "peer-reset", "app-reset", "both", "unknown"];

/// How many peers are told apart, and how many kinds of closes; those beyond are added up as one.
const MOST: usize = 10_000;
/// Rows of the table of peers.
const SHOWN: usize = 10;

/// What closes of one kind have in common: verdict, role, and the program's name where it counts.
type Kind = (String, String, Option<String>);

/// Tallies so far.
pub struct Tallies {
    probe: String,
    by_comm: bool,
    kinds: HashMap<Kind, u64>,
    peers: HashMap<IpAddr, Tally>,
    /// Peers that there was no room for.
    others: Tally,
}

/// Tallies by verdict, in the order of [`VERDICTS`].
#[derive(Clone, Debug, Default)]
struct Tally([u64; VERDICTS.len()]);

impl Tally {
    fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    fn add(&mut self, more: &Tally) {
        let both = self.0.iter_mut().zip(more.0);
        both.for_each(|(there, more)| *there += more);
    }
}

impl Tallies {
    /// None yet; they are counted as PROBE's, with BY_COMM by the name of the program too.
    pub fn new(probe: &str, by_comm: bool) -> Self {
        Self {
            probe: probe.to_owned(),
            by_comm,
            kinds: HashMap::new(),
            peers: HashMap::new(),
            others: Tally::default(),
        }
    }

    /// Takes a close as it is shown: its fields `verdict`, `role` and `remote`.
    pub fn add(&mut self, event: &Event) {
        let verdict = word(event, "verdict");
        let unknown = VERDICTS.len() - 1;
        let at = VERDICTS.iter().position(|v| *v == verdict);
        let mut tally = Tally::default();
        tally.0[at.unwrap_or(unknown)] = 1;
        if let Some(Value::Address(peer, _)) = field(event, "remote") {
            // A peer that is not among so many is another one.
            match self.peers.len() < MOST || self.peers.contains_key(peer) {
                true => self.peers.entry(*peer).or_default().add(&tally),
                false => self.others.add(&tally),
            }
        }
        let comm = self.by_comm.then(|| match event.nobody {
            true => "-".to_owned(),
            false => event.comm.clone(),
        });
        let mut kind = (verdict.to_owned(), word(event, "role").to_owned(), comm);
        if self.kinds.len() >= MOST && !self.kinds.contains_key(&kind) {
            kind.2 = kind.2.map(|_| "(others)".to_owned());
        }
        *self.kinds.entry(kind).or_default() += 1;
    }

    /// How many of each kind, the most frequent first.
    pub fn counts(&self) -> Vec<Count> {
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let name = |name: &str, value: &str| (name.to_owned(), Value::Name(value.to_owned()));
        kinds
            .into_iter()
            .map(|((verdict, role, comm), count)| Count {
                probe: self.probe.clone(),
                key: [name("verdict", verdict), name("role", role)]
                    .into_iter()
                    .chain(comm.as_ref().map(|comm| name("comm", comm)))
                    .collect(),
                count: *count,
            })
            .collect()
    }

    /// The peers with the most closes, with how many there were of each verdict.
    pub fn peers(&self) -> Option<Table> {
        let mut peers: Vec<_> = self.peers.iter().collect();
        peers.sort_by(|a, b| b.1.count().cmp(&a.1.count()).then_with(|| a.0.cmp(b.0)));
        let mut others = self.others.clone();
        let rest = peers.split_off(SHOWN.min(peers.len()));
        rest.iter().for_each(|(_, tally)| others.add(tally));
        let mut all = others.clone();
        peers.iter().for_each(|(_, tally)| all.add(tally));
        if all.count() == 0 {
            return None;
        }
        let seen: Vec<usize> = (0..VERDICTS.len()).filter(|v| all.0[*v] > 0).collect();
        let row = |peer: Value, tally: &Tally| {
            let share = tally.count() as f64 / all.count() as f64;
            let head = [peer, Value::Uint(tally.count()), Value::Share(share)];
            let verdicts = seen.iter().map(|v| Value::Uint(tally.0[*v]));
            head.into_iter().chain(verdicts).collect()
        };
        let mut rows: Vec<Vec<Value>> = peers
            .iter()
            .map(|(peer, tally)| row(Value::Address(**peer, None), tally))
            .collect();
        if others.count() > 0 {
            rows.push(row(Value::Name("others".to_owned()), &others));
        }
        let columns = ["address", "count", "share"].into_iter();
        let columns = columns.chain(seen.iter().map(|v| VERDICTS[*v]));
        Some(Table {
            title: "closes by peer".to_owned(),
            columns: columns.map(str::to_owned).collect(),
            rows,
        })
    }
}

fn field<'e>(event: &'e Event, name: &str) -> Option<&'e Value> {
    let found = event.fields.iter().find(|(n, _)| &**n == name);
    found.map(|(_, value)| value)
}

/// A field that is a word; `-` where there is none.
fn word<'e>(event: &'e Event, name: &str) -> &'e str {
    match field(event, name) {
        Some(Value::Name(word)) if !word.is_empty() => word,
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(verdict: &str, role: &str, remote: IpAddr) -> Event {
        Event {
            probe: "close".into(),
            time_ns: 0,
            pid: 1,
            tid: 1,
            comm: "server".into(),
            nobody: false,
            latency_ns: None,
            fields: vec![
                ("verdict".into(), Value::Name(verdict.into())),
                ("role".into(), Value::Name(role.into())),
                ("remote".into(), Value::Address(remote, Some(4000))),
            ],
            steps: Vec::new(),
        }
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn closes_by_verdict_and_role_and_by_peer_without_its_port() {
        let mut closes = Tallies::new("close", false);
        assert!(closes.counts().is_empty() && closes.peers().is_none());
        for (verdict, role, peer, times) in [
            ("peer", "server", 1, 3),
            ("app", "server", 2, 1),
            ("peer", "client", 1, 1),
            ("peer-reset", "server", 2, 1),
        ] {
            for _ in 0..times {
                closes.add(&close(verdict, role, address(peer)));
            }
        }
        let name = |n: &str, v: &str| (n.to_owned(), Value::Name(v.to_owned()));
        let first = &closes.counts()[0];
        assert_eq!((first.probe.as_str(), first.count), ("close", 3));
        assert_eq!(first.key, [name("verdict", "peer"), name("role", "server")]);
        assert_eq!(closes.counts().iter().map(|c| c.count).sum::<u64>(), 6);
        let table = closes.peers().expect("peers");
        assert_eq!(
            table.columns,
            ["address", "count", "share", "app", "peer", "peer-reset"]
        );
        let row = |peer, counts: [u64; 4]| {
            let [all, app, peers, reset] = counts.map(Value::Uint);
            let share = Value::Share(counts[0] as f64 / 6.0);
            vec![
                Value::Address(address(peer), None),
                all,
                share,
                app,
                peers,
                reset,
            ]
        };
        assert_eq!(table.rows, [row(1, [4, 0, 4, 0]), row(2, [2, 1, 0, 1])]);
    }

    #[test]
    fn many_peers_and_programs_take_bounded_room_and_none_is_lost() {
        let mut closes = Tallies::new("close", true);
        let many = 3 * MOST as u32;
        for n in 0..many {
            let mut event = close("app", "client", address(n));
            event.comm = format!("thread-{n}");
            closes.add(&event);
        }
        let mut nobody = close("?", "", address(7));
        nobody.nobody = true;
        closes.add(&nobody);
        assert!(closes.peers.len() <= MOST && closes.kinds.len() <= MOST + 2);
        let counts = closes.counts();
        assert_eq!(
            counts.iter().map(|c| c.count).sum::<u64>(),
            u64::from(many) + 1
        );
        let table = closes.peers().expect("peers");
        assert_eq!(table.rows.len(), SHOWN + 1);
        assert_eq!(table.rows[0][1], Value::Uint(2), "7 closed twice");
        let rest = u64::from(many) + 1 - 2 - (SHOWN as u64 - 1);
        assert_eq!(
            table.rows[SHOWN][..2],
            [Value::Name("others".into()), Value::Uint(rest)]
        );
    }
}
