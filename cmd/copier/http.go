package main

import (
	"errors"
	"fmt"

	"flowtwin/internal/cli"
	"flowtwin/internal/http1"
)

// What becomes of bytes that are no HTTP/1.
const (
	onErrorDrop = "drop"
	onErrorPass = "pass"
)

// httpHeading stands above these flags in --help.
const httpHeading = "HTTP/1: which requests; of each kind that is given one must match, and nothing of -not-"

// httpFlags is what the command line says about requests of HTTP.
type httpFlags struct {
	config  http1.Config
	onError string
}

func (h *httpFlags) add(fs *cli.Flags) {
	c := &h.config
	fs.Group(httpHeading)
	fs.StringSliceVar(&c.Hosts, "http-host", nil, "`HOST[,...]`: requests for these, such as shop.example,*.cdn.example")
	fs.StringArrayVar(&c.Paths, "http-path", nil, "`PATH`, without its query: /the/beginning, a /glob*of/all, or ~ and a regular expression; may be repeated")
	fs.StringSliceVar(&c.Methods, "http-method", nil, "`METHOD[,...]`: requests with these")
	fs.StringArrayVar(&c.Headers, "http-header", nil, "`NAME[=VALUE]`: requests with this header; the value: all of it, a glob, or ~ and a regular expression; may be repeated")
	fs.StringSliceVar(&c.NotHosts, "http-not-host", nil, "`HOST[,...]`: requests for these are left out")
	fs.StringArrayVar(&c.NotPaths, "http-not-path", nil, "`PATH`: left out")
	fs.StringSliceVar(&c.NotMethods, "http-not-method", nil, "`METHOD[,...]`: left out")
	fs.StringArrayVar(&c.NotHeaders, "http-not-header", nil, "`NAME[=VALUE]`: left out")
	fs.StringArrayVar(&c.SetHeaders, "http-set-header", nil, "`'NAME: VALUE'`: set a header in each request that is copied; may be repeated")
	fs.StringVar(&c.SetHost, "http-set-host", "", "`HOST[:PORT]`: set the host that is asked")
	fs.StringArrayVar(&c.RewritePaths, "http-rewrite-path", nil, "`RE=TO`: in path and query, what the regular expression matches first becomes TO, with $1 for its groups; of several the first that matches")
	fs.StringVar(&h.onError, "http-on-error", onErrorDrop, "`drop|pass`: with any of these, what is not HTTP/1, from there to the end of its connection: not copied; or copied as it is")
}

// parse returns the rules, nil when none are given.
func (h *httpFlags) parse(fs *cli.Flags) (*http1.Rules, error) {
	// An empty list, of a variable that is not set, say, must not select everything.
	for name, list := range map[string][]string{
		"http-host": h.config.Hosts, "http-not-host": h.config.NotHosts, "http-method": h.config.Methods, "http-not-method": h.config.NotMethods,
	} {
		if fs.Changed(name) && len(list) == 0 {
			return nil, fmt.Errorf("--%s: is empty", name)
		}
	}
	switch {
	case fs.Changed("http-set-host") && h.config.SetHost == "":
		return nil, errors.New("--http-set-host: is empty")
	case h.onError != onErrorDrop && h.onError != onErrorPass:
		return nil, fmt.Errorf("--http-on-error: %q is neither %s nor %s", h.onError, onErrorDrop, onErrorPass)
	case !h.config.Empty():
	case fs.Changed("http-on-error"):
		return nil, errors.New("--http-on-error: says nothing without another --http-... flag")
	default:
		return nil, nil
	}
	rules, err := http1.Compile(h.config)
	if err != nil {
		return nil, fmt.Errorf("--http-%w", err)
	}
	return rules, nil
}
