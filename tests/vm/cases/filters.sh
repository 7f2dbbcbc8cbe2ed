# build: calls calls.c
# By name, by cgroup, and the COMMAND that uprof starts itself: others that run the same file are not counted.
. /vm/lib.sh

# counted EXPECTED FLAGS...: with one target that is meant, and one that is not.
counted() {
    expected=$1
    shift
    uprof_start count /fixtures/calls:work "$@"
    /fixtures/calls --calls 77 --name Other > other || fail "the other program ended with status $?"
    go
    uprof_stop
    end_target
    equal "counted with $*" "$(probe aggregated)" "$expected"
}

target calls --calls 500 --name Mine
counted 500 --comm Mine
target calls --calls 400
mkdir -p /sys/fs/cgroup/mine
echo $target > /sys/fs/cgroup/mine/cgroup.procs
counted 400 --cgroup /sys/fs/cgroup/mine
target calls --calls 300
counted 377 --uid 0

uprof count /fixtures/calls:work --format json -o report -- /fixtures/calls --calls 600 --exit 7 > truth 2> said
equal "the status of the command" $? 7
uprof_ended 0
equal "hits of the command" "$(probe hits)" "$(truth calls)"
pass
