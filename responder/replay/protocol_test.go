package replay

import "testing"

func TestSniffer(t *testing.T) {
	for name, tt := range map[string]struct {
		segments   []string
		http2, tls bool
	}{
		"HTTP/1":                    {[]string{"GET / HTTP/1.1\r\n"}, false, false},
		"HTTP/2":                    {[]string{preface + "\x00\x00\x00\x04"}, true, false},
		"HTTP/2 in small segments":  {[]string{"P", "RI * HTTP/2.0\r\n", "\r\nSM\r\n", "\r\n\x00"}, true, false},
		"almost HTTP/2":             {[]string{"PRI * HTTP/2.0\r\n\r\nSM\r\nX", preface}, false, false},
		"HTTP/2 in the middle":      {[]string{"*1\r\n", preface}, false, false},
		"TLS":                       {[]string{"\x16\x03\x01\x02\x00\x01"}, false, true},
		"TLS in the middle":         {[]string{"*1\r\n", "\x16\x03\x01"}, false, false},
		"one byte that may be TLS":  {[]string{"\x16", "\x03\x01"}, false, false},
		"nothing":                   {nil, false, false},
		"the preface and nothing":   {[]string{preface}, true, false},
		"something behind HTTP/2":   {[]string{preface, "\x16\x03\x01"}, true, false},
		"a preface that is not all": {[]string{preface[:20]}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var f sniffer
			for _, p := range tt.segments {
				f.look([]byte(p))
			}
			if f.http2 != tt.http2 || f.tls != tt.tls {
				t.Errorf("%+v", f)
			}
		})
	}
}
