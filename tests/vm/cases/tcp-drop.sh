# build: sockets sockets.c
# The recipe: what a socket's filter drops, with that for its reason where the kernel tells any (5.17).
. /vm/lib.sh

recipe tcp-drop --port 7001 -- --loss
# PSH and ACK: the byte. Its last copy came through.
equal "drops" "$(events destination '"flags":24[,}]' | uniq -c | awk '{ print $1 "x" $2 }')" \
    "$(truth retransmits)x127.0.0.1:7001"
if at_least 5 17; then
    equal "the reason" "$(events reason '"flags":24[,}]' | sort -u | sed 's/^SKB_DROP_REASON_//')" SOCKET_FILTER
else
    equal "the reason" "$(events reason '"flags":24[,}]' | sort -u)" 0
fi
pass
