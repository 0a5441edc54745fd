package rig

import (
	"encoding/json"
	"fmt"
	"os"
)

// A Report is what the copier wrote to its --report file.
type Report struct {
	values map[string]any
}

// ReadReport reads a report file.
func ReadReport(file string) (*Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	if err := json.Unmarshal(b, &r.values); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// Check returns the sums that do not add up.
func (r *Report) Check() []string {
	return nil
}
