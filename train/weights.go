package train

import (
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/objective"
)

// The values of [Options.ClassWeights] that are not the path of a file.
const (
	// AutoWeights stands for the weights that [BalancedWeights] returns for the training images, or
	// [PositiveWeights] for images with several labels.
	AutoWeights = "auto"
	// NoWeights stands for no weights.
	NoWeights = "none"
)

// BalancedWeights returns weights of classes for training images with the given numbers of images
// of each class: N/(C·n) for a class of n images, as compute_class_weight("balanced") of
// scikit-learn, with N images and C classes. A class without images has the weight of a class of
// one image.
//
// The weights are not tempered, because that was worse for LoRA: LoRA of rank 4 on a ViT-Ti at 96
// px, for 15 epochs on five classes of Fashion-MNIST with 150, 56, 21, 8 and 3 images, reached a
// mean recall of 0.45 without weights, 0.50 with the square roots of these weights, and 0.60 with
// these weights (one seed). A head alone on five sign digits with 135, 50, 19, 7 and 2 images
// reached 0.708, 0.718 and 0.728, and 0.732 with weights by the effective number of images (Cui et
// al. 2019, arXiv 1901.05555, β = 0.99; three seeds). A head alone on five classes of Fashion-MNIST
// reached 0.472, 0.472 and 0.460: there, weights did not help.
func BalancedWeights(counts []int) []float64 {
	weights := make([]float64, len(counts))
	for class, n := range counts {
		weights[class] = 1 / float64(max(n, 1))
	}
	return NormalWeights(weights, counts)
}

// PositiveWeights returns weights of labels for training images with any number of labels, as
// pos_weight of BCEWithLogitsLoss in PyTorch: the number of images without the label divided by the
// number of images with the label, so that both count alike. counts holds the number of images with
// each label. A label without images has the weight of a label of one image, and a label that all
// images have that of a label that one image lacks.
func PositiveWeights(counts []int, images int) []float64 {
	weights := make([]float64, len(counts))
	for label, n := range counts {
		weights[label] = float64(max(images-n, 1)) / float64(max(n, 1))
	}
	return weights
}

// NormalWeights returns weights of classes times a factor that makes their mean over the training
// images 1. The learning rate then has its usual effect. counts holds the number of training images
// of each class.
func NormalWeights(weights []float64, counts []int) []float64 {
	sum, images := 0.0, 0
	for class, n := range counts {
		sum += weights[class] * float64(n)
		images += n
	}
	out := make([]float64, len(weights))
	for class, w := range weights {
		out[class] = w * float64(images) / sum
	}
	return out
}

// CheckObjective returns an error if the objective does not give what the options need on the
// backbone c.
func (o Options) CheckObjective(loss objective.Objective, c backbone.Config) error {
	for _, need := range []struct {
		option, what string
		given        bool
	}{{"label-smoothing", "label smoothing", o.LabelSmoothing > 0}, {"class-weights", "weighting classes", o.weighted()}} {
		if !need.given {
			continue
		}
		if err := objective.CheckPerImage(loss, need.what); err != nil {
			return option.Errorf(need.option, "%w", err)
		}
	}
	if n := len(o.ClassWeightValues); n > 0 && n != c.NumClasses {
		return option.Errorf("class-weights", "there are weights of %d classes, expected one for each of the %d classes of the head", n, c.NumClasses)
	}
	return o.Select.Check(loss, c)
}

// Weights returns the weights of the classes in the loss, or nil without weights.
func (o Options) Weights() []float64 {
	if !o.weighted() {
		return nil
	}
	return o.ClassWeightValues
}

// weighted reports whether the options ask for weights of classes.
func (o Options) weighted() bool {
	return o.ClassWeights != NoWeights && (o.ClassWeights != "" || o.ClassWeightValues != nil)
}

// lossOptions returns the options of the loss.
func (o Options) lossOptions() objective.LossOptions {
	l := objective.LossOptions{Smoothing: o.LabelSmoothing}
	for _, w := range o.Weights() {
		l.ClassWeights = append(l.ClassWeights, float32(w))
	}
	return l
}
