// A function that reads the clock itself, called by goroutines that grow their stacks and move between threads; see
// clocked.c.
package main

import (
	"fmt"
	"runtime"
	"sort"
	"sync"
	"time"
)

const (
	calls      = 2000
	goroutines = 8
)

var (
	took  []int64
	guard sync.Mutex
)

func beBusy(i uint32) {
	scatter := (i * 2654435761) >> 16
	switch kind := i % 100; {
	case kind < 86:
		spin(time.Duration(20000 + scatter%180000))
	case kind < 97:
		spin(time.Duration(1000000 + scatter*15))
	default:
		time.Sleep(time.Duration(20000+scatter%20000) * time.Microsecond)
	}
}

func spin(d time.Duration) {
	for start := time.Now(); time.Since(start) < d; {
	}
}

// Uses so much of the stack that it grows.
//
//go:noinline
func deepen(n int) byte {
	var room [512]byte
	room[n%512] = byte(n)
	if n > 0 {
		room[0] += deepen(n - 1)
	}
	return room[n%512]
}

//go:noinline
func Timed(i uint32) byte {
	start := time.Now()
	beBusy(i)
	b := deepen(int(i % 64))
	runtime.Gosched()
	guard.Lock()
	took = append(took, int64(time.Since(start)))
	guard.Unlock()
	return b
}

func quantile(perMille int) int64 {
	return took[(len(took)*perMille+999)/1000-1]
}

func main() {
	var all sync.WaitGroup
	for g := uint32(0); g < goroutines; g++ {
		all.Add(1)
		go func(g uint32) {
			defer all.Done()
			for i := uint32(0); i < calls/goroutines; i++ {
				Timed(g*13 + i)
			}
		}(g)
	}
	all.Wait()
	sort.Slice(took, func(a, b int) bool { return took[a] < took[b] })
	fmt.Printf("{\"calls\":%d,\"p50\":%d,\"p90\":%d,\"p99\":%d,\"p999\":%d}\n",
		len(took), quantile(500), quantile(900), quantile(990), quantile(999))
}
