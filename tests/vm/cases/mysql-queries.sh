# build: mysqld mysql8.cc
# The recipe on a program with MySQL 8's functions: every statement, with its text.
. /vm/lib.sh

target mysqld --sessions 2 --executes 40
uprof_start recipe mysql-queries --pid $target
go
uprof_stop
end_target
equal "hits" "$(probe hits statement)" "$(truth calls)"
grep '"type":"event"' report > statements
for pair in Query=queries Prepare=prepares Execute=executes; do
    equal "statements of command ${pair%=*}" "$(grep -c "\"command\":\"${pair%=*}\"" statements)" "$(truth ${pair#*=})"
done
[ "$(grep '"command":"Execute"' statements | grep -c '"sql":"[^"]')" = "$(truth executes)" ] ||
    fail "not every statement that was executed has its text"
pass
