# build: calls calls.c
# Comparisons with text in filters; an empty text is one, on every kernel (5.10 and 6.1 give its length as 0).
. /vm/lib.sh

# counted EXPECTED CONDITION: of 100 texts "name 0" ... "name 9".
counted() {
    target calls --function text --calls 100 --name Caller
    uprof_start count /fixtures/calls:greet --pid $target --where "$2"
    go
    uprof_stop
    end_target
    equal "counted where $2" "$(probe aggregated)" "$1"
    equal "filtered where $2" "$(probe filtered)" $((100 - $1))
}

counted 10 'str(arg0, arg1) == "name 3"'
counted 100 'str(arg0 + 41) == ""'
counted 0 'str(arg0) == ""'
counted 100 'comm == "Caller"'
pass
