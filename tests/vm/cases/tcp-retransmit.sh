# build: sockets sockets.c
# The recipe: a socket that drops what comes has its peer send again, as often as TCP_INFO says.
. /vm/lib.sh

recipe tcp-retransmit --port 7001 -- --loss
[ "$(truth retransmits)" -ge 2 ] || fail "there were only $(truth retransmits) retransmissions"
equal "segments" "$(events segments | sum)" "$(truth retransmits)"
equal "bytes of each" "$(events bytes | sort -u)" 1
equal "from" "$(events local | sort -u)" "127.0.0.1:$(truth client_port)"
equal "to" "$(events remote | sort -u)" 127.0.0.1:7001
pass
