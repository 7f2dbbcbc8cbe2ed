//! Functions whose code is chosen when a program starts (IFUNC).

use crate::args;
use crate::harness::machine::scratch;
use crate::harness::variants::Variant;
use crate::harness::{Target, Uprof, turn};

#[test]
fn indirect_functions_are_followed_to_what_they_became() {
    let _turn = turn();
    let built = Variant::Pie.build(&scratch().join("variants"));
    for function in ["strlen", "memcpy"] {
        let mut target = Target::gated(&built.program, args![]);
        let uprof = Uprof::json(args![
            "count",
            format!("libc:{function}"),
            "--pid",
            target.pid()
        ])
        .start();
        assert_eq!(target.truth()["calls"], 1000);
        assert_eq!(uprof.stop().report().only().hits, 1000, "{function}");
    }
}
