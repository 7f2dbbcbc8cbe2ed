# What `uprof doctor` finds by trying is what kernels of this version are known to have.
. /vm/lib.sh

uprof doctor > told 2> said || fail "status $?: $(head -n 1 said)"
cat told said
! grep 'panicked at' said || fail "it panicked"

# has NAME MAJOR MINOR: there from that version on, and not before.
has() {
    word=no
    ! at_least "$2" "$3" || word=yes
    grep -q "^  $word *$1\( \|$\)" told || fail "$1 is not told to be '$word': $(grep "$1" told)"
}

has 'BTF' 5 2
has 'ring buffer' 5 8
has 'atomic compare-and-exchange' 5 12
has 'attach cookie' 5 15
has 'uprobe by perf event' 4 17
has 'uprobe_multi' 6 6
has "uprobe_multi's pid filter" 6 10
has 'uprobe session' 6 13
has 'tracepoint' 4 7
has 'kprobe' 4 1
has 'fentry' 5 5
has 'formats of tracepoints' 4 1
pass
