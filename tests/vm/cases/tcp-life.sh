# build: sockets sockets.c
# The recipe: each connection at its end, by both ends, with the bytes that the program sent and received.
. /vm/lib.sh

recipe tcp-life --port 7001 -- --connections 3 --send 1000 --reply 30
equal "ends" "$(events role | sort | uniq -c | awk '{ print $1 $2 }' | tr '\n' ' ')" "3client 3server "
equal "owner" "$(events pid | sort -u)" "$target"
equal "sent by clients" "$(events sent '"client"' | sum)" "$(truth sent)"
equal "received by clients" "$(events received '"client"' | sum)" "$(truth received)"
equal "sent by the server" "$(events sent '"server"' | sum)" "$(truth received)"
equal "received by the server" "$(events received '"server"' | sum)" "$(truth sent)"
equal "the last" "$(events local '"client"' | tail -n 1)" "127.0.0.1:$(truth client_port)"
pass
