# build: sockets sockets.c
# The recipe: a reset as it is sent by a program's own close, and as it is received.
. /vm/lib.sh

recipe tcp-reset --port 7001 -- --reset
client=127.0.0.1:$(truth client_port)
equal "sent" "$(events local '"probe":"sent"') $(events remote '"probe":"sent"')" "$client 127.0.0.1:7001"
equal "its owner" "$(events owner '"probe":"sent"')" "$target"
equal "received" "$(events local '"probe":"received"') $(events remote '"probe":"received"')" "127.0.0.1:7001 $client"
pass
