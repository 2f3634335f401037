package plan

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// A plain decimal: no sign, no exponent (a short text such as 1e999999999 would
// be a very long number), no fraction bar, at most 18 digits on either side.
var decimal = regexp.MustCompile(`^([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})$`)

// ParseBudget reads a budget as people write it and returns a number of
// parameters: "400000", "400k", "0.4M" (k and M in either case), or "0.5%" of
// the backbone's parameters, rounded down. The arithmetic is exact, so "0.57M"
// is 570000.
//
// backbone is the backbone's parameter count without the head. A budget that is
// zero, negative, above backbone, not a whole number of parameters, or not a
// number in one of these forms is an error.
func ParseBudget(s string, backbone int) (int, error) {
	fail := func(format string, args ...any) (int, error) {
		return 0, fmt.Errorf("parsing budget %q: %s", s, fmt.Sprintf(format, args...))
	}
	if backbone < 1 {
		return fail("the backbone has %d parameters, expected a positive number", backbone)
	}

	number := strings.TrimSpace(s)
	unit := big.NewRat(1, 1)
	percent := false
	if number != "" {
		end := len(number) - 1
		switch number[end] {
		case 'k', 'K':
			unit.SetInt64(1e3)
		case 'm', 'M':
			unit.SetInt64(1e6)
		case '%':
			unit.SetFrac64(int64(backbone), 100)
			percent = true
		default:
			end++
		}
		number = strings.TrimSpace(number[:end])
	}
	if strings.HasPrefix(number, "-") {
		return fail("a budget cannot be negative")
	}
	if !decimal.MatchString(number) {
		return fail("expected a number of parameters such as 400000, 400k or 0.4M, or a share of the backbone such as 0.5%%")
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return fail("%q is not a number", number)
	}
	value.Mul(value, unit)

	if !percent && !value.IsInt() {
		return fail("%s is not a whole number of parameters", value.FloatString(6))
	}
	if value.Cmp(new(big.Rat).SetInt64(int64(backbone))) > 0 {
		return fail("%s parameters are more than the %d there are", value.FloatString(0), backbone)
	}
	params := new(big.Int).Quo(value.Num(), value.Denom()).Int64()
	if params == 0 {
		return fail("that is no parameter at all of the backbone's %d", backbone)
	}
	return int(params), nil
}
