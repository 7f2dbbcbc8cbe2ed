# program: getent
# The recipe: names that a program looks up.
. /vm/lib.sh

mkdir -p /etc
echo "127.0.0.1 localhost here" > /etc/hosts
for name in localhost here not.there.invalid; do
    uprof recipe getaddrinfo --format json -o report -- getent ahosts $name > names 2> said
    status=$?
    [ $name = not.there.invalid ] || uprof_ended $status
    equal "names looked up" "$(events host)" $name
done
pass
