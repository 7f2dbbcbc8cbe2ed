# build: sockets sockets.c
# The recipe: who closes first, at both ends, by a FIN and by a reset.
. /vm/lib.sh

verdicts() { events verdict "\"role\":\"$1\"" | sort | uniq -c | awk '{ print $1 $2 }' | tr '\n' ' '; }

recipe tcp-close --port 7001 -- --connections 3 --send 1000 --reply 30
equal "clients, first" "$(verdicts client)" "3app "
equal "the server, second" "$(verdicts server)" "3peer "
equal "by whom" "$(events pid | sort -u)" "$target"
equal "by close" "$(events probe | sort -u)" "close"
equal "sent by clients" "$(events bytes_sent '"client"' | sum)" "$(truth sent)"
equal "received by the server" "$(events bytes_received '"server"' | sum)" "$(truth sent)"
equal "the last" "$(events local '"client"' | tail -n 1)" "127.0.0.1:$(truth client_port)"

recipe tcp-close --port 7001 -- --connections 2 --server-first
equal "the server, first" "$(verdicts server)" "2app "
equal "clients, second" "$(verdicts client)" "2peer "

recipe tcp-close --port 7001 --role server -- --reset
equal "reset by the client" "$(verdicts server)$(verdicts client)" "1peer-reset "
pass
