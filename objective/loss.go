package objective

import (
	"fmt"
	"math"
)

// LossError reports a loss that is NaN or infinite. The same work with the same options gives the
// same loss again, so to repeat it or to resume it does not help.
type LossError struct {
	// What says whose loss it is, such as "training step 3" or "scoring batch 0".
	What string
	// Loss is the loss.
	Loss float64
	// Advice says what to do.
	Advice string
}

func (e *LossError) Error() string {
	return fmt.Sprintf("%s: the loss is %v; %s", e.What, e.Loss, e.Advice)
}

// CheckLoss returns a [*LossError] if the loss is NaN or infinite. what says whose loss it is, and
// advice what to do.
func CheckLoss(what string, loss float64, advice string) error {
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return &LossError{what, loss, advice}
	}
	return nil
}
