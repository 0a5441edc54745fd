package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// A requestLog is what a server saw: for each of its connections the requests
// in order.
type requestLog map[string][]string

// readLog reads nginx's log of "connection uri length" lines, leaving out what
// FlowTwin's own probes asked.
func readLog(file string) (requestLog, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	log := requestLog{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		conn, request, ok := strings.Cut(sc.Text(), " ")
		if ok && strings.Contains(request, "?r=") {
			log[conn] = append(log[conn], request)
		}
	}
	return log, nil
}

// times returns a log in which each connection is there so many times.
func (l requestLog) times(n int) requestLog {
	out := requestLog{}
	for conn, requests := range l {
		for i := range n {
			out[fmt.Sprintf("%s/%d", conn, i)] = requests
		}
	}
	return out
}

func (l requestLog) requests() (n int) {
	for _, r := range l {
		n += len(r)
	}
	return n
}

// exactness is how much of the online server's work the target has seen.
type exactness struct {
	Requests, Copied       int // by name and length
	Connections, Identical int // with the same requests in the same order
}

func compare(online, target requestLog) exactness {
	var e exactness
	seen, sequences := map[string]int{}, map[string]int{}
	for _, requests := range target {
		sequences[strings.Join(requests, "\n")]++
		for _, r := range requests {
			seen[r]++
		}
	}
	for _, requests := range online {
		e.Connections++
		key := strings.Join(requests, "\n")
		if sequences[key] > 0 {
			sequences[key]--
			e.Identical++
		}
		for _, r := range requests {
			e.Requests++
			if seen[r] > 0 {
				seen[r]--
				e.Copied++
			}
		}
	}
	return e
}
