// Package ctl lets a running command be asked and told things over a unix
// socket: a [Server] offers the operations of a [Table], [Main] is the command
// line that calls them.
//
// The protocol is one JSON object in a line each way, as often as the client
// likes on one connection:
//
//	{"op":"percent","args":["25"]}
//	{"result":"25 % of the flows that begin from now on"}
//	{"error":"percent: 250 is not within 0..100"}
//
// Operations run one at a time, whoever asks, so that they need no order among
// themselves. Only root and the user who runs the command may ask.
package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A Table is the operations that a command offers, by name. Every table has the
// operation help beside its own.
type Table map[string]Operation

// An Operation is something that a running command can be asked or told.
type Operation struct {
	Args string // how the arguments are written, such as "add MAP | remove PORT"
	Help string // what it does, in one line
	Min  int    // arguments, at least
	Max  int    // at most, or less than Min: Min exactly

	Reads bool // changes nothing, and is not worth a line in the log

	// Do does it and returns a text or anything that JSON can say. ctx ends with
	// the server. What takes long is begun, not waited for: others are waiting.
	Do func(ctx context.Context, args []string) (any, error)
}

// A request asks for one operation.
type request struct {
	Op   string   `json:"op"`
	Args []string `json:"args,omitempty"`
}

// A response answers a request: one of the two is there.
type response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// call does what r asks for.
func (t Table) call(ctx context.Context, r request) response {
	result, err := t.do(ctx, r)
	if err == nil {
		var raw []byte
		if raw, err = json.Marshal(result); err == nil {
			return response{Result: raw}
		}
	}
	return response{Error: r.Op + ": " + err.Error()}
}

func (t Table) do(ctx context.Context, r request) (any, error) {
	if r.Op == "help" {
		return t.help(), nil
	}
	op, ok := t[r.Op]
	switch {
	case !ok:
		return nil, fmt.Errorf("no such operation; there are: %s", strings.Join(t.names(), ", "))
	case len(r.Args) < op.Min || len(r.Args) > max(op.Min, op.Max):
		return nil, fmt.Errorf("%d arguments; usage: %s", len(r.Args), strings.TrimSpace(r.Op+" "+op.Args))
	}
	return op.Do(ctx, r.Args)
}

func (t Table) names() []string {
	names := []string{"help"}
	for name := range t {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// help lists the operations.
func (t Table) help() string {
	var b strings.Builder
	for _, name := range t.names() {
		op := t[name]
		if name == "help" {
			op.Help = "list the operations"
		}
		fmt.Fprintf(&b, "%-28s %s\n", strings.TrimSpace(name+" "+op.Args), op.Help)
	}
	return strings.TrimRight(b.String(), "\n")
}
