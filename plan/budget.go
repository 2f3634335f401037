package plan

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/sptune/spt/internal/option"
)

// Budget is the number of parameters that tuning may take, the head excluded: a fixed number, or a
// share of the backbone's parameters. [ParseBudget] returns one. The zero Budget stands for no
// budget.
//
// A Budget keeps the text from which it was parsed, and JSON holds that text. Budgets of different
// texts, such as "200000" and "0.2M", can allow the same number: compare what Parameters returns.
type Budget struct{ text string }

// ParseBudget parses a budget: "400000", "400k" or "0.4M" parameters (k and M in either case), or
// "0.5%" of the backbone's parameters.
func ParseBudget(text string) (Budget, error) {
	b := Budget{strings.TrimSpace(text)}
	value, share, err := b.value()
	if err == nil && !share && !value.IsInt() {
		err = fmt.Errorf("%s is not a whole number of parameters", value.FloatString(6))
	}
	if err == nil && value.Sign() == 0 {
		err = errors.New("it allows no parameter; give a larger budget")
	}
	if err != nil {
		return Budget{}, fmt.Errorf("budget %q: %w", text, err)
	}
	return b, nil
}

// MustParseBudget is like [ParseBudget] but panics if text is not a budget. It is for budgets that
// are written in a program.
func MustParseBudget(text string) Budget {
	b, err := ParseBudget(text)
	if err != nil {
		panic(err)
	}
	return b
}

// String returns the text from which the budget was parsed; it is empty for the zero Budget.
func (b Budget) String() string { return b.text }

// IsZero reports whether b stands for no budget.
func (b Budget) IsZero() bool { return b == Budget{} }

// IsShare reports whether b is a share of the backbone, such as "0.5%".
func (b Budget) IsShare() bool { return strings.HasSuffix(b.text, "%") }

// BudgetNames returns the texts of budgets, separated by commas.
func BudgetNames(budgets []Budget) string {
	var names []string
	for _, b := range budgets {
		names = append(names, b.text)
	}
	return strings.Join(names, ", ")
}

// MarshalText returns the text from which the budget was parsed.
func (b Budget) MarshalText() ([]byte, error) { return []byte(b.text), nil }

// UnmarshalText parses text as [ParseBudget] does. An empty text is the zero Budget.
func (b *Budget) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*b = Budget{}
		return nil
	}
	*b, err = ParseBudget(string(text))
	return err
}

// Parameters returns the number of parameters that the budget allows on a backbone with size
// parameters, the head excluded. A share is rounded down. The arithmetic is exact: "0.57M" is
// 570000. It is an error if the budget exceeds the backbone, or if a share of it is less than one
// parameter.
func (b Budget) Parameters(size int) (int, error) {
	fail := func(format string, args ...any) (int, error) {
		return 0, option.Errorf("budget", "budget %q: %s", b.text, fmt.Sprintf(format, args...))
	}
	value, share, err := b.value()
	if err != nil {
		return fail("%v", err)
	}
	if size < 1 {
		return fail("the backbone has %d parameters, expected a positive number", size)
	}
	if share {
		value.Mul(value, big.NewRat(int64(size), 1))
	}
	if value.Cmp(big.NewRat(int64(size), 1)) > 0 {
		return fail("%s parameters are more than the %d of the backbone; give a smaller budget", value.FloatString(0), size)
	}
	parameters := new(big.Int).Quo(value.Num(), value.Denom()).Int64()
	if parameters == 0 {
		return fail("it allows no parameter of the %d of the backbone; give a larger budget", size)
	}
	return int(parameters), nil
}

// decimal matches a plain decimal number: no sign, no exponent (a short text such as 1e999999999
// would be a very long number), no fraction bar, at most 18 digits on either side of the point.
var decimal = regexp.MustCompile(`^([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})$`)

// value returns the number of parameters, or the share of the backbone as a fraction of one.
func (b Budget) value() (value *big.Rat, share bool, err error) {
	number, unit := b.text, big.NewRat(1, 1)
	if number != "" {
		end := len(number) - 1
		switch number[end] {
		case 'k', 'K':
			unit.SetInt64(1e3)
		case 'm', 'M':
			unit.SetInt64(1e6)
		case '%':
			unit.SetFrac64(1, 100)
			share = true
		default:
			end++
		}
		number = strings.TrimSpace(number[:end])
	}
	if strings.HasPrefix(number, "-") {
		return nil, false, errors.New("a budget cannot be negative")
	}
	if !decimal.MatchString(number) {
		return nil, false, errors.New("expected a number of parameters such as 400000, 400k or 0.4M, or a share of the backbone such as 0.5%")
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return nil, false, fmt.Errorf("%q is not a number", number)
	}
	return value.Mul(value, unit), share, nil
}
