package train

// LearningRate exports learningRate to tests outside the package.
func (o Options) LearningRate(epoch float64) float64 { return o.learningRate(epoch) }
