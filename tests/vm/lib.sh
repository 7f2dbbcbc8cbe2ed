# What the cases share. A case is a shell script that ends by `pass`, `unsupported REASON` or `fail TEXT`; it runs
# as root in a folder of its own that is empty, with busybox, uprof and what its head asks for.

PATIENCE=20 # seconds, for what takes milliseconds

pass() { echo "VERDICT pass"; exit 0; }
unsupported() { echo "VERDICT unsupported $*"; exit 0; }
fail() {
    echo "VERDICT fail $*"
    exit 1
}

# at_least 6 6: whether this kernel is that version or later.
at_least() {
    uname -r | awk -F. -v major="$1" -v minor="$2" '{ exit !($1 > major || ($1 == major && $2 + 0 >= minor)) }'
}

# equal WHAT FOUND EXPECTED
equal() { [ "$2" = "$3" ] || fail "$1 is '$2', expected '$3'"; }

# wait_for WHAT COMMAND...: until the command works.
wait_for() {
    what=$1
    shift
    tries=$((PATIENCE * 20))
    until "$@" 2> /dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "$what did not come in $PATIENCE s"
        usleep 50000
    done
}

# Started processes are ended after the case, also when it fails.
remember() { echo "$1" >> started; }

# ---- a program of tests/targets: it waits at its gate, runs, tells its truth and stands still

# target PROGRAM ARGUMENTS...: starts it; $target is its process id. One at a time.
target() {
    rm -f gate truth
    mkfifo gate
    program=$1
    shift
    "/fixtures/$program" "$@" --gate --hold < gate > truth &
    target=$!
    remember $target
    # Kept open: the program ends when this closes.
    exec 5> gate
    wait_for "the gate of $program" grep -q ready truth
}

# go: lets it run, and waits for its truth.
go() {
    echo go >&5
    wait_for "the truth of the target" grep -q '"calls"\|"mallocs"' truth
}

# end_target: lets it end; its status must be 0.
end_target() {
    exec 5>&-
    wait $target || fail "the target ended with status $?"
}

# truth FIELD: a number from the program's line of truth.
truth() { tail -n 1 truth | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"; }

# ---- uprof

# uprof_start ARGUMENTS...: starts it with JSON lines to `report` and waits until its probes are armed.
uprof_start() {
    rm -f report said
    uprof "$@" --format json > report 2> said 5>&- &
    uprof=$!
    remember $uprof
    wait_for "uprof $* to be armed" armed
}

armed() {
    if ! kill -0 $uprof; then
        cat said
        fail "uprof ended: $(head -n 1 said)"
    fi
    grep -q '^uprof: armed' said
}

# uprof_stop: Ctrl-C; it must end well, without a panic, and account for every hit.
uprof_stop() {
    kill -INT $uprof
    wait $uprof
    uprof_ended $?
}

# uprof_ended STATUS: the same for a uprof that ended by itself.
uprof_ended() {
    cat said
    [ "$1" = 0 ] || fail "uprof ended with status $1: $(head -n 1 said)"
    ! grep 'panicked at' said || fail "uprof panicked"
    tail -n 1 report
    tail -n 1 report | grep -q '"type":"summary"' || fail "the report has no summary"
    probes | while read -r line; do
        hits=$(number hits "$line")
        sum=0
        for part in emitted aggregated filtered dropped unpaired unsampled; do sum=$((sum + $(number $part "$line"))); done
        [ "$hits" = $sum ] || echo "hits are not accounted for: $line" > wrong
    done
    [ ! -e wrong ] || fail "$(cat wrong)"
}

# The probes of the summary, one a line.
probes() { tail -n 1 report | sed 's/.*"probes":\[\([^]]*\)\].*/\1/; s/},{/}\n{/g'; }

# number FIELD LINE: a number out of a line of JSON.
number() { echo "$2" | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"; }

# probe FIELD [NAME]: a number of the summary's probe of that name, or of its only one.
probe() { number "$1" "$(probes | grep "\"probe\":\"[^\"]*$2\"")"; }

# events FIELD [PATTERN]: that field of each event (whose line has the pattern), one a line.
events() { grep '"type":"event"' report | grep -e "$2" | sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"; }

# sum: of the numbers that come in.
sum() { awk '{ s += $1 } END { print s + 0 }'; }

# recipe NAME ARGUMENTS... -- ARGUMENTS-OF-SOCKETS...: runs it while a program talks to itself by TCP.
recipe() {
    name=$1 options=
    shift
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    target sockets "$@"
    uprof_start recipe "$name" $options
    go
    uprof_stop
    end_target
}

# ---- the tests of uprof-ebpf

# run_tests NAME...: as many of them as this kernel has mechanisms for; it is the case's verdict.
run_tests() {
    skip=
    if ! at_least 6 13; then
        skip="--skip a_session"
        export UPROF_TEST_MECHANISMS=perf
        ! at_least 6 6 || export UPROF_TEST_MECHANISMS="multi perf"
    fi
    bad=
    for test in "$@"; do
        if ! "/tests/$test" --test-threads 1 $skip > out 2>&1; then
            tail -c 5000 out
            bad="$bad $test: $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' out | tr '\n' ' ')"
        fi
        grep '^test result' out | sed "s/^/$test /"
    done
    [ -z "$bad" ] || fail "$bad"
    pass
}
