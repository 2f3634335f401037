package train

// LearningRate gives tests outside the package the learning rate at a fractional epoch.
func (o Options) LearningRate(epoch float64) float64 { return o.learningRate(epoch) }
