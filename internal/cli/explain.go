package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
)

// Explain makes an error of a flag that is none of the program's say what to do
// instead, as far as letter and name know: they get what was given, without dashes.
func Explain(err error, letter, name func(string) string) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	given := unknown.GetSpecifiedName()
	dashes, of := "--", name
	if unknown.GetSpecifiedShortnames() != "" {
		dashes, of = "-", letter
	}
	if hint := of(given); hint != "" {
		return fmt.Errorf("%s%s: %s", dashes, given, hint)
	}
	return fmt.Errorf("%w; see --help", err)
}
