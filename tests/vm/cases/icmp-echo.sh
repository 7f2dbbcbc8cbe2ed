# The recipe: each echo request of a ping, by IPv4 and by IPv6.
. /vm/lib.sh

uprof_start recipe icmp-echo
ping -c 3 -i 0.2 127.0.0.1 || fail "127.0.0.1 does not answer"
ping -c 2 -i 0.2 ::1 || fail "::1 does not answer"
uprof_stop
equal "requests to 127.0.0.1" "$(events sequence '"destination":"127.0.0.1"' | tr '\n' ' ')" "0 1 2 "
equal "requests to ::1" "$(events sequence '"destination":"::1"' | tr '\n' ' ')" "0 1 "
pass
