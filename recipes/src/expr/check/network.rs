//! The network: addresses, and integers in its byte order.

use super::super::parse::Node;
use super::super::{Expr, Fault, Kind, Type};
use super::place::word;
use super::{Checked, Checker, Result};
use crate::debug::Place;

/// The bytes of an IPv4 address.
const V4: u64 = 4;
/// The bytes of an IPv6 address.
const V6: u64 = 16;

/// Where an address of the network stands.
struct Stands {
    /// An address in memory.
    at: Expr,
    /// How many bytes stand there, where its type tells.
    bytes: Option<u64>,
}

impl Checker<'_> {
    /// `ntop(p)`, `ntop(family, p4, p6)`, `endpoint(p, port)`, `endpoint(family, p4, p6, port)`
    pub(super) fn address(&self, n: &Node, name: &str, args: &[Node]) -> Result<Checked> {
        let (addresses, port) = match (name, args) {
            ("endpoint", [addresses @ .., port]) => (addresses, Some(port)),
            _ => (args, None),
        };
        let (family, places) = match addresses {
            [family, p4, p6] => (Some(family), vec![(p4, V4), (p6, V6)]),
            [p] => (None, vec![(p, 0)]),
            _ => {
                return Err(Fault::new(
                    n.span.clone(),
                    format!("`{name}` takes addresses"),
                ));
            }
        };
        let what = format!("`{name}()`");
        let number = |n: Option<&Node>| n.map(|n| self.scalar(n, &what)).transpose();
        let (family, port) = (number(family)?, number(port)?);
        let mut found = Vec::new();
        for (node, wanted) in &places {
            found.push(self.stands(node, name, *wanted)?);
        }
        let deferred = |c: &Option<Checked>| c.as_ref().is_some_and(Checked::is_deferred);
        if deferred(&family) || deferred(&port) || found.iter().any(Option::is_none) {
            return Ok(Checked::deferred(&n.span));
        }
        let mut found = found.into_iter().flatten();
        let (v4, v6) = match (found.next(), found.next()) {
            (Some(one), None) => self.by_size(places[0].0, name, one)?,
            (p4, p6) => {
                let there = |p: Option<Stands>| p.map(|p| p.at).filter(|at| at.as_int() != Some(0));
                (there(p4), there(p6))
            }
        };
        if v4.is_none() && v6.is_none() {
            let message = format!("`{name}()` of neither an IPv4 nor an IPv6 address");
            return Err(Fault::new(n.span.clone(), message).help(usage(name)));
        }
        let boxed = |e: Option<Expr>| e.map(Box::new);
        Ok(Checked::plain(Expr {
            kind: Kind::Address {
                family: boxed(family.map(|c| c.e)),
                v4: boxed(v4),
                v6: boxed(v6),
                port: boxed(port.map(|c| c.e)),
            },
            ty: Type::Address,
            span: n.span.clone(),
        }))
    }

    /// Where the address stands that a node names: it is that place itself, or points to it. `None`: debug
    /// information will tell.
    fn stands(&self, n: &Node, name: &str, wanted: u64) -> Result<Option<Stands>> {
        let c = self.node(n)?;
        if c.is_deferred() {
            return Ok(None);
        }
        let fits = |bytes: u64| bytes == V4 || bytes == V6;
        // Its bytes are wanted, not its value.
        let e = match c.e.kind {
            Kind::Swap(inner) => *inner,
            kind => Expr { kind, ..c.e },
        };
        let stands = match (c.place, e.kind, e.ty) {
            (Some(Place::Memory(at)), _, ty) => Stands {
                at,
                bytes: ty.size(),
            },
            (None, Kind::Load(at), Type::Int { bits, .. }) if bits < 64 => Stands {
                at: word(*at),
                bytes: Some(u64::from(bits) / 8),
            },
            (None, kind, Type::Ptr { to }) => Stands {
                bytes: to.size().filter(|bytes| fits(*bytes)),
                at: word(Expr {
                    kind,
                    ty: Type::Ptr { to },
                    span: e.span,
                }),
            },
            (None, kind, ty) if ty.as_int().is_some_and(|(bits, _)| bits == 64) => Stands {
                at: Expr {
                    kind,
                    ty,
                    span: e.span,
                },
                bytes: None,
            },
            (.., ty) => {
                let message = format!(
                    "`{name}()` takes where an address stands, and `{}` is {}",
                    self.quote(n),
                    ty.describe()
                );
                return Err(Fault::new(n.span.clone(), message).help(usage(name)));
            }
        };
        match stands.bytes {
            Some(bytes) if !fits(bytes) || wanted == V6 && bytes == V4 => {
                let message = format!(
                    "`{}` has {bytes} bytes; an IPv4 address has 4, an IPv6 address 16",
                    self.quote(n)
                );
                Err(Fault::new(n.span.clone(), message).help(usage(name)))
            }
            _ => Ok(Some(stands)),
        }
    }

    /// Which kind of address it is.
    fn by_size(&self, n: &Node, name: &str, one: Stands) -> Result<(Option<Expr>, Option<Expr>)> {
        match one.bytes {
            Some(V4) => Ok((Some(one.at), None)),
            Some(_) => Ok((None, Some(one.at))),
            None => {
                let quote = self.quote(n);
                let message =
                    format!("whether `{quote}` is an IPv4 or an IPv6 address is not known");
                let port = if name == "endpoint" { ", port" } else { "" };
                Err(Fault::new(n.span.clone(), message).help(format!(
                    "the family tells: {name}(2, {quote}, 0{port}) is IPv4, {name}(10, 0, {quote}{port}) IPv6"
                )))
            }
        }
    }

    /// `ntohs(e)`, `ntohl(e)`, `ntohll(e)`
    pub(super) fn host_order(&self, n: &Node, name: &str, arg: &Node) -> Result<Checked> {
        let c = self.scalar(arg, &format!("`{name}()`"))?;
        if c.is_deferred() {
            return Ok(Checked::deferred(&n.span));
        }
        if matches!(c.e.ty, Type::Ptr { .. }) {
            let message = format!("`{name}()` of a pointer");
            return Err(Fault::new(n.span.clone(), message)
                .help(format!("follow it: {name}(*{})", self.quote(arg))));
        }
        let bits = match name {
            "ntohs" => 16,
            "ntohl" => 32,
            _ => 64,
        };
        let ty = Type::Int {
            bits,
            signed: false,
        };
        // What its type says to be in that order is already turned round.
        if matches!(c.e.kind, Kind::Swap(_)) && c.e.ty.as_int() == Some((bits, false)) {
            return Ok(c);
        }
        let e = super::debug::typed(c.e, ty, &n.span);
        let e = Expr {
            span: n.span.clone(),
            ..e.swapped()
        };
        Ok(Checked::plain(e))
    }
}

/// How the functions of this file are written.
pub(super) fn usage(name: &str) -> &'static str {
    match name {
        "ntop" => {
            "ntop(p) is the address at p, ntop(family, p4, p6) the one of its family; 0 stands for none"
        }
        "endpoint" => {
            "endpoint(p, port) is the address at p with its port, endpoint(family, p4, p6, port) the one of its \
             family; 0 stands for none"
        }
        "ntohs" => "ntohs(e) is a 16-bit integer out of the network's byte order",
        "ntohl" => "ntohl(e) is a 32-bit integer out of the network's byte order",
        _ => "ntohll(e) is a 64-bit integer out of the network's byte order",
    }
}
