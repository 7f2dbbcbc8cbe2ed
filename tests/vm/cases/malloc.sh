# build: king king.c
# build: king-static king.c -static
# The allocator's calls and sizes against the program's own count, in libc and in a static program.
. /vm/lib.sh

for program in king king-static; do
    target $program --pairs 2000 --threads 2 --callocs 30 --reallocs 20 --min 16 --max 5000
    uprof_start malloc --pid $target
    go
    uprof_stop
    end_target
    equal "$program: malloc" "$(probe hits malloc)" "$(truth mallocs)"
    equal "$program: calloc" "$(probe hits calloc)" "$(truth callocs)"
    equal "$program: realloc" "$(probe hits realloc)" "$(truth reallocs)"
    equal "$program: free" "$(probe hits free)" "$(truth frees)"
    histogram=$(tail -n 1 report | grep -o "\"count\":$(truth mallocs),[^[]*" | head -n 1)
    equal "$program: smallest" "$(number min "$histogram")" "$(truth min)"
    equal "$program: largest" "$(number max "$histogram")" "$(truth max)"
done
pass
