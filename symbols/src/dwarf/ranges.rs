//! The addresses of an entry: gimli's own way adds a size to an address without a look at damage.

use gimli::{AttributeValue, UnitRef};

use super::Reader;

/// No entry has more pieces; a list that claims more is damage.
const MOST: usize = 1 << 16;

/// From where to where the code of an entry goes, in the order of its list. Empty where it has none, and where what it
/// says is damaged.
pub(crate) fn ranges_of<'a>(
    unit: UnitRef<'_, Reader<'a>>,
    entry: &gimli::DebuggingInformationEntry<Reader<'a>>,
) -> Vec<(u64, u64)> {
    if let Some(list) = entry.attr_value(gimli::DW_AT_ranges)
        && let Ok(Some(mut list)) = unit.attr_ranges(list)
    {
        let mut ranges = Vec::new();
        while let Ok(Some(range)) = list.next() {
            ranges.push((range.begin, range.end));
            if ranges.len() == MOST {
                break;
            }
        }
        return ranges;
    }
    let address = |name| unit.attr_address(entry.attr_value(name)?).ok().flatten();
    let Some(low) = address(gimli::DW_AT_low_pc) else {
        return Vec::new();
    };
    let high = match entry.attr_value(gimli::DW_AT_high_pc) {
        Some(AttributeValue::Udata(size)) => low.checked_add(size),
        _ => address(gimli::DW_AT_high_pc),
    };
    high.map(|high| (low, high)).into_iter().collect()
}
