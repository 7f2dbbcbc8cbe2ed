//! uprof-ebpf
