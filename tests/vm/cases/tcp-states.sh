# build: sockets sockets.c
# The recipe: the states of both sockets of a connection, in order, where the client closes first and where the server does.
. /vm/lib.sh

# ends FIRST-TO-CLOSE OTHER
ends() {
    equal "states of the $1, which closes first" "$(events to "\"role\":\"$1\"" | tr '\n' ' ' | sed "s/.*ESTABLISHED //")" \
        "FIN_WAIT1 FIN_WAIT2 CLOSE "
    equal "states of the $2" "$(events to "\"role\":\"$2\"" | tr '\n' ' ' | sed "s/.*ESTABLISHED //")" \
        "CLOSE_WAIT LAST_ACK CLOSE "
}

recipe tcp-states --port 7001 -- --connections 1
ends client server
recipe tcp-states --port 7001 -- --connections 1 --server-first
ends server client
pass
