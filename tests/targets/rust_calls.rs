//! rust_calls: calls functions whose names need demangling, as often as it is told.
//!
//! `rust_calls N` waits for a line on standard input, calls each function N times, prints the
//! truth, and waits for standard input to close.

use std::hint::black_box;
use std::io::{self, Read, Write};

mod ledger {
    use std::hint::black_box;

    pub struct Account {
        pub balance: u64,
    }

    impl Account {
        #[inline(never)]
        pub fn deposit(&mut self, amount: u64) -> u64 {
            self.balance = black_box(self.balance + amount);
            self.balance
        }
    }

    #[inline(never)]
    pub fn total(accounts: &[Account]) -> u64 {
        black_box(accounts)
            .iter()
            .map(|account| account.balance)
            .sum()
    }
}

fn main() -> io::Result<()> {
    let calls: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000);
    println!("{{\"ready\":true,\"pid\":{}}}", std::process::id());
    io::stdout().flush()?;
    let mut input = io::stdin();
    let mut byte = [0];
    while input.read(&mut byte)? == 1 && byte[0] != b'\n' {}

    let mut accounts = vec![ledger::Account { balance: 0 }];
    for n in 0..calls {
        black_box(accounts[0].deposit(black_box(n)));
        black_box(ledger::total(&accounts));
    }
    println!("{{\"pid\":{},\"calls\":{calls}}}", std::process::id());
    io::stdout().flush()?;
    while input.read(&mut byte)? == 1 {}
    Ok(())
}
