package train

import (
	"math"
	"time"
)

// paceWindow is the time over which the speed of the steps is averaged. A shorter time would follow
// the noise of a machine with other work, a longer one would notice a slower machine late.
const paceWindow = 10 * time.Second

// pace measures the speed of a training, so that the training can fit into its time.
type pace struct {
	began, at time.Time     // begin of the measurement, and time of the last call of measure
	steps     int           // number of finished steps at the last call
	each      float64       // smoothed time of a step, in seconds; 0 if it is not known
	validates time.Duration // time of the last validation
}

// measure counts the steps since the last call. It must also be called when steps begin after other
// work, such as a validation, with others set.
func (p *pace) measure(steps int, now time.Time, others bool) {
	n, passed := steps-p.steps, now.Sub(p.at).Seconds()
	first := p.began.IsZero()
	if first && n > 0 { // the first step compiles the programs, so the measurement begins after it
		p.began = now
	}
	if p.at, p.steps = now, steps; first || others || n <= 0 {
		return
	}
	share := max(passed/max(passed, now.Sub(p.began).Seconds()), 1-math.Exp(-passed/paceWindow.Seconds()))
	p.each += share * (passed/float64(n) - p.each)
}

// fits returns how many more steps fit into the time left, with a validation after each epoch of
// the given number of steps and after the last step. ok is false if the speed is not known yet.
func (p *pace) fits(left time.Duration, steps int) (n int, ok bool) {
	validates := p.validates.Seconds()
	n = int((left.Seconds() - validates) / (p.each + validates/float64(steps)))
	return max(0, n), p.each > 0
}

// left returns the estimated time of n more steps with their validations, or 0 if the speed is not
// known yet.
func (p *pace) left(n, steps int) time.Duration {
	epochs := (n + steps - 1) / steps
	if p.each == 0 {
		return 0
	}
	return time.Duration(p.each*float64(n)*float64(time.Second)) + time.Duration(epochs)*p.validates
}

// ForwardTime returns the time of the forward pass of an image in the last validation of Do. It is
// 0 before the first validation.
func (r *Run) ForwardTime() time.Duration {
	if r.Val == nil || r.pace.validates == 0 {
		return 0
	}
	return r.pace.validates / time.Duration(r.Val.Len())
}

// fit sets the total number of steps to the number that fits into the time of the training. An
// epoch has the given number of steps.
func (r *Run) fit(at *position, steps int) {
	r.pace.measure(at.Steps, time.Now(), false)
	if r.TimeLeft == nil {
		return
	}
	if n, ok := r.pace.fits(r.TimeLeft(), steps); ok {
		at.Total = min(r.Options.total(steps), max(1, at.Steps+n))
	}
}
