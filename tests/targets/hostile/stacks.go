// stacks: goroutines that wander between threads while their stacks grow, move and shrink, with panics that are
// recovered further up, goroutines that end within probed functions, and some that are preempted in a loop. Counts and
// options are those of hostile.h.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

type tally struct{ entries, returns, panics, ends int64 }

var grow, leaf, thrower, catcher, goner, spinner tally

var named = []struct {
	name string
	of   *tally
}{{"main.Grow", &grow}, {"main.Leaf", &leaf}, {"main.Thrower", &thrower}, {"main.Catcher", &catcher},
	{"main.Goner", &goner}, {"main.Spinner", &spinner}}

func add(counter *int64, n int64) { atomic.AddInt64(counter, n) }

func mix(sum, value uint64) uint64 {
	sum = (sum ^ value) * 0x9e3779b97f4a7c15
	return sum ^ sum>>29
}

//go:noinline
func Leaf(n uint64) uint64 {
	add(&leaf.entries, 1)
	if n%8 == 0 {
		runtime.Gosched()
	}
	add(&leaf.returns, 1)
	return mix(n, 1)
}

// Each call needs about 600 bytes of stack: a new goroutine's is copied six times on the way down. Pointers into the
// stack are followed on the way up.
//
//go:noinline
func Grow(depth uint64, above *uint64) uint64 {
	add(&grow.entries, 1)
	var words [64]uint64
	for i := range words {
		words[i] = mix(depth, uint64(i))
	}
	own := depth
	sum := Leaf(depth)
	if depth > 0 {
		sum = mix(sum, Grow(depth-1, &own))
	}
	for i := range words {
		if words[i] != mix(depth, uint64(i)) {
			fmt.Fprintln(os.Stderr, "damaged: words on the stack")
			os.Exit(5)
		}
	}
	*above += own
	add(&grow.returns, 1)
	return mix(sum, own)
}

//go:noinline
func Thrower(depth uint64, n uint64) uint64 {
	add(&thrower.entries, 1)
	if depth == 0 && n%2 == 0 {
		panic(n)
	}
	sum := n
	if depth > 0 {
		sum = mix(Thrower(depth-1, n), depth)
	}
	add(&thrower.returns, 1)
	return sum
}

//go:noinline
func Catcher(depth uint64, n uint64) (sum uint64) {
	add(&catcher.entries, 1)
	defer func() {
		if thrown := recover(); thrown != nil {
			add(&thrower.panics, int64(depth)+1)
			sum = mix(thrown.(uint64), 3)
		}
		add(&catcher.returns, 1)
	}()
	return Thrower(depth, n)
}

// The goroutine ends two calls deep; what was deferred still runs.
//
//go:noinline
func Goner(depth uint64, cleaned *uint64) {
	add(&goner.entries, 1)
	defer func() { *cleaned += depth + 1 }()
	if depth > 0 {
		Goner(depth-1, cleaned)
	} else {
		add(&goner.ends, 2)
		runtime.Goexit()
	}
	add(&goner.returns, 1)
}

// A loop without calls: the runtime stops it by a signal after 10 ms, and may go on with it on another thread.
//
//go:noinline
func Spinner(until *int64) uint64 {
	add(&spinner.entries, 1)
	n := uint64(0)
	for atomic.LoadInt64(until) == 0 {
		n++
	}
	add(&spinner.returns, 1)
	return n
}

func round() uint64 {
	const goroutines, times = 8, 6
	sums := make([]uint64, goroutines*times)
	var all sync.WaitGroup
	var stop int64
	var spinners sync.WaitGroup
	for i := 0; i < 3; i++ {
		spinners.Add(1)
		go func() {
			defer spinners.Done()
			Spinner(&stop)
		}()
	}
	for t := 0; t < times; t++ {
		for g := 0; g < goroutines; g++ {
			all.Add(1)
			go func(at int) {
				defer all.Done()
				var above uint64
				sum := Grow(uint64(60+at%5), &above)
				sum = mix(sum, above)
				for n := uint64(0); n < 6; n++ {
					sum = mix(sum, Catcher(n*4, uint64(at)+n))
				}
				sums[at] = sum
			}(t*goroutines + g)
		}
		all.Add(1)
		cleaned := uint64(0)
		go func() {
			defer all.Done()
			Goner(1, &cleaned)
		}()
		all.Wait()
		if cleaned != 3 {
			fmt.Fprintln(os.Stderr, "damaged: what a goroutine deferred")
			os.Exit(5)
		}
		if t%2 == 0 {
			runtime.GC() // shrinks stacks
		}
	}
	time.Sleep(25 * time.Millisecond)
	atomic.StoreInt64(&stop, 1)
	spinners.Wait()
	sum := uint64(0)
	for _, s := range sums {
		sum = mix(sum, s)
	}
	return sum
}

func option(name string, otherwise int64) int64 {
	for i := 1; i+1 < len(os.Args); i++ {
		if os.Args[i] == name {
			n, _ := strconv.ParseInt(os.Args[i+1], 10, 64)
			return n
		}
	}
	return otherwise
}

func flag(name string) bool {
	for _, word := range os.Args[1:] {
		if word == name {
			return true
		}
	}
	return false
}

func sayTruth(counts []tally, sum uint64) {
	line := "{\"truth\":{"
	for i, f := range named {
		t := counts[i]
		if i > 0 {
			line += ","
		}
		line += fmt.Sprintf("%q:{\"entries\":%d,\"returns\":%d", f.name, t.entries, t.returns)
		if t.panics > 0 {
			line += fmt.Sprintf(",\"exception\":%d", t.panics)
		}
		if t.ends > 0 {
			line += fmt.Sprintf(",\"thread\":%d", t.ends)
		}
		line += "}"
	}
	fmt.Printf("%s},\"checksum\":%d}\n", line, sum)
}

func main() {
	runtime.GOMAXPROCS(4)
	rounds, seconds := option("--rounds", 1), option("--seconds", 0)
	in := bufio.NewReader(os.Stdin)
	if flag("--gate") {
		fmt.Printf("{\"ready\":true,\"pid\":%d}\n", os.Getpid())
		in.ReadString('\n')
	}
	start, checksum := time.Now(), uint64(0)
	first, now := make([]tally, len(named)), make([]tally, len(named))
	for done := int64(0); (seconds > 0 && (done == 0 || time.Since(start) < time.Duration(seconds)*time.Second)) ||
		(seconds == 0 && done < rounds); {
		sum := round()
		done++
		if done == 1 {
			checksum = sum
		}
		if sum != checksum {
			fmt.Fprintf(os.Stderr, "round %d: checksum %d, not %d\n", done, sum, checksum)
			os.Exit(3)
		}
		for i, f := range named {
			now[i] = *f.of
			if done == 1 {
				first[i] = now[i]
			}
			if now[i].entries != now[i].returns+now[i].panics+now[i].ends {
				fmt.Fprintf(os.Stderr, "%s: %+v\n", f.name, now[i])
				os.Exit(4)
			}
			if now[i].entries != done*first[i].entries || now[i].returns != done*first[i].returns {
				fmt.Fprintf(os.Stderr, "%s: %+v in %d rounds, %+v in the first\n", f.name, now[i], done, first[i])
				os.Exit(3)
			}
		}
	}
	if seconds > 0 {
		now = first
	}
	sayTruth(now, checksum)
	if flag("--hold") {
		for {
			if _, err := in.ReadByte(); err != nil {
				break
			}
		}
	}
}
