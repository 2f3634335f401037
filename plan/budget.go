package plan

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/sptune/spt/internal/option"
)

// Budget is the number of parameters that may be tuned, without the head. It is a fixed number or a
// share of the backbone's parameters. [ParseBudget] makes a Budget. The zero Budget means that no
// budget is set.
//
// A Budget keeps the text from which it was parsed, and its JSON value is this text. Two budgets
// with different texts, such as "200000" and "0.2M", can allow the same number of parameters. To
// compare budgets, compare the results of [Budget.Parameters].
type Budget struct{ text string }

// ParseBudget parses a budget. "400000", "400k" and "0.4M" are numbers of parameters; k and M may
// be upper or lower case. "0.5%" is a share of the backbone's parameters.
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

// MustParseBudget is like [ParseBudget] but panics if text is not a valid budget. Use it for
// constants in a program.
func MustParseBudget(text string) Budget {
	b, err := ParseBudget(text)
	if err != nil {
		panic(err)
	}
	return b
}

// String returns the text from which the budget was parsed. It is empty for the zero Budget.
func (b Budget) String() string { return b.text }

// IsZero reports whether b is the zero Budget, which means that no budget is set.
func (b Budget) IsZero() bool { return b == Budget{} }

// IsShare reports whether b is a share of the backbone's parameters, such as "0.5%".
func (b Budget) IsShare() bool { return strings.HasSuffix(b.text, "%") }

// BudgetNames returns the texts of the budgets, separated by a comma and a space.
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

// Parameters returns the number of parameters that the budget allows. size is the number of
// parameters of the backbone without its head. A share is rounded down. The arithmetic is exact:
// "0.57M" is 570000. Parameters returns an error if the budget exceeds size or allows less than one
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
		return fail("%s parameters are more than the %d parameters of the backbone; give a smaller budget", value.FloatString(0), size)
	}
	parameters := new(big.Int).Quo(value.Num(), value.Denom()).Int64()
	if parameters == 0 {
		return fail("it allows no parameter of a backbone with %d parameters; give a larger budget", size)
	}
	return int(parameters), nil
}

// decimal matches a decimal number with at most 18 digits before and after the point. It admits no
// sign and no fraction bar. It admits no exponent either, because a short text such as 1e999999999
// would need a huge amount of memory.
var decimal = regexp.MustCompile(`^([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})$`)

// value returns the number of parameters. If share is true, value is a fraction of the backbone
// instead, such as 1/200 for 0.5%.
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
