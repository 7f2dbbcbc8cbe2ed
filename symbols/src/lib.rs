//! uprof-symbols
