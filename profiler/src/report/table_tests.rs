//! Rows of events, files and terminals.

use super::super::Format;
use super::super::tests::{a_summary, a_timeline, an_event, written};
use super::*;

fn columns() -> Vec<Column> {
    vec![
        Column::new("TIME", ColumnValue::Time),
        Column::new("PID", ColumnValue::Pid),
        Column::new("COMMAND", ColumnValue::Field("command".into())),
        Column::new("ROWS", ColumnValue::Field("rows".into())),
        Column::new("LATENCY", ColumnValue::Latency),
        Column::new("SQL", ColumnValue::Field("sql".into())),
    ]
}

fn long_statement() -> Event {
    let mut event = an_event();
    event.latency_ns = Some(2_500_000_000);
    event.fields[1].1 = Value::Text {
        bytes: b"SELECT * FROM t WHERE name = '\x1b[31m'".to_vec(),
        cut: true,
    };
    event.fields[2].1 = Value::Uint(1_234_567_890);
    event
}

#[test]
fn a_file_gets_whole_values_under_one_header() {
    let page = written(Format::Table, TermInfo::plain(), |out| {
        out.start(&columns())?;
        out.event(&an_event())?;
        out.event(&long_statement())?;
        out.event(&an_event())
    });
    assert_eq!(
        page,
        "\
TIME              PID  COMMAND       ROWS   LATENCY  SQL
08:53:20.123      812  Query            3   12.3 us  SELECT \"a\"\\n
08:53:20.123      812  Query     1234567890   2.50  s  SELECT * FROM t WHERE name = '\\x1b[31m'…(cut)
08:53:20.123      812  Query              3   12.3 us  SELECT \"a\"\\n
"
    );
}

#[test]
fn the_steps_of_an_event_stand_under_its_row() {
    let page = written(Format::Table, TermInfo::plain(), |out| {
        out.start(&columns()[..3])?;
        out.event(&a_timeline())?;
        out.event(&an_event())
    });
    assert_eq!(
        page,
        "\
TIME              PID  COMMAND
08:53:20.123      812  Query
       -200 us  ESTABLISHED to CLOSE_WAIT  softirq
          0     close                      mariadbd 900
      +3.00 us  CLOSE_WAIT to LAST_ACK     mariadbd 900
08:53:20.123      812  Query
"
    );
    let page = written(Format::Table, TermInfo::sized(40, 24, false), |out| {
        out.event(&a_timeline())
    });
    assert!(
        page.contains("\n       -200 us  ESTABLISHED to CLOSE_WA…\n"),
        "{page}"
    );
}

#[test]
fn a_terminal_gets_rows_that_fit() {
    for width in [60, 80, 100] {
        let page = written(Format::Table, TermInfo::sized(width, 24, false), |out| {
            out.start(&columns())?;
            out.event(&long_statement())
        });
        for line in page.lines() {
            assert!(
                line.width() <= width.max(55 + LEAST_TEXT),
                "{width}: {line}"
            );
        }
        assert!(!page.contains('\x1b'));
    }
    let page = written(Format::Table, TermInfo::sized(80, 24, false), |out| {
        out.start(&columns())?;
        out.event(&long_statement())
    });
    assert!(page.ends_with("  SELECT * FROM t WHERE na…\n"), "{page}");
}

#[test]
fn columns_stand_and_are_measured_as_the_recipe_says() {
    let column = |title: &str, align, unit: Option<&str>| Column {
        align,
        unit: unit.map(str::to_owned),
        ..Column::new(title, ColumnValue::Field(title.to_lowercase().into()))
    };
    let columns = [
        column("ROWS", Some(Align::Left), Some("bytes")),
        column("COMMAND", Some(Align::Right), None),
        column("DELTA", None, Some("hex")),
        Column {
            align: Some(Align::Left),
            ..Column::new("PID", ColumnValue::Pid)
        },
        column("SQL", None, Some("ns")),
    ];
    let mut event = an_event();
    event.fields[2].1 = Value::Uint(1536);
    let page = written(Format::Table, TermInfo::plain(), |out| {
        out.start(&columns)?;
        out.event(&event)
    });
    assert_eq!(
        page,
        "\
ROWS       COMMAND               DELTA  PID      SQL
1.50 KiB     Query  0xffffffffffffffff  812      SELECT \"a\"\\n
"
    );
}

#[test]
fn frames_stand_under_their_row() {
    let mut event = an_event();
    let frames = ["tcp_sendmsg+0x1b", "__sys_sendto+0xf4\x1b[2J"];
    event.fields = vec![
        ("n".into(), Value::Uint(1)),
        (
            "kstack".into(),
            Value::Stack(frames.map(str::to_owned).to_vec()),
        ),
        (
            "peer".into(),
            Value::Address("::1".parse().unwrap(), Some(80)),
        ),
    ];
    let columns = [
        Column::new("PEER", ColumnValue::Field("peer".into())),
        Column::new("STACK", ColumnValue::Field("kstack".into())),
        Column::new("N", ColumnValue::Field("n".into())),
    ];
    let page = written(Format::Table, TermInfo::plain(), |out| {
        out.start(&columns)?;
        out.event(&event)
    });
    assert_eq!(
        page,
        "\
PEER      STACK            N
[::1]:80  2 frames         1
      tcp_sendmsg+0x1b
      __sys_sendto+0xf4\\x1b[2J
"
    );
    let rest = written(Format::Table, TermInfo::sized(100, 24, false), |out| {
        out.event(&event)
    });
    let lines: Vec<&str> = rest.lines().collect();
    assert!(lines[1].ends_with("  n=1 peer=[::1]:80"), "{rest}");
    assert_eq!(lines[2], "      tcp_sendmsg+0x1b");
    // Columns without it: nobody asked for it.
    let without = written(Format::Table, TermInfo::plain(), |out| {
        out.start(&columns[..1])?;
        out.event(&event)
    });
    assert_eq!(without.lines().count(), 2);
}

#[test]
fn without_columns_every_capture_is_shown_by_name() {
    let page = written(Format::Table, TermInfo::plain(), |out| {
        out.event(&an_event())
    });
    assert_eq!(
        page,
        "\
TIME              PID      TID  COMM             PROBE          LATENCY  VALUES
08:53:20.123      812      900  mariadbd         statement      12.3 us  command=Query sql=\"SELECT \"a\"\\n\" rows=3 delta=-1 thd=0x7f00dead0000 wait=(unreadable)
"
    );
}

#[test]
fn colour_is_for_terminals_and_closed_again() {
    let page = written(Format::Table, TermInfo::sized(100, 24, true), |out| {
        out.event(&an_event()).and(out.finish(&a_summary()))
    });
    assert!(page.contains(summary::BOLD) && page.contains(summary::DIM));
    let opened = page.matches(summary::BOLD).count() + page.matches(summary::DIM).count();
    assert_eq!(opened, page.matches(summary::RESET).count());
}

#[test]
fn the_live_block_is_redrawn_in_place_and_gives_way() {
    let page = written(Format::Table, TermInfo::sized(80, 10, false), |out| {
        out.live(&a_summary())?;
        out.live(&a_summary())?;
        out.event(&an_event())?;
        out.live(&a_summary())
    });
    // Nine lines at most, and each redraw goes back over exactly those.
    assert_eq!(page.matches("\x1b[9F\x1b[J").count(), 2);
    assert!(page.lines().all(|line| line.width() < 100));
    // Rows of events take its place, and push it down at once, to the lower half.
    let page = written(Format::Table, TermInfo::sized(80, 10, false), |out| {
        out.event(&an_event())?;
        out.live(&a_summary())?;
        out.event(&an_event())?;
        out.event(&an_event())?;
        out.flush()?;
        out.flush()
    });
    let (_, after) = page.split_once("\x1b[5F\x1b[J").expect("it gave way");
    assert_eq!(after.lines().count(), 2 + 5, "{page}");
    assert!(after.contains("\n--- 2.00 s ---\n") && !after.contains('\x1b'));
    let plain = written(Format::Table, TermInfo::plain(), |out| {
        out.live(&a_summary())
    });
    assert!(plain.starts_with("--- 2.00 s ---\n") && !plain.contains('\x1b'));
}
