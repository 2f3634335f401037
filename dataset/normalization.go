package dataset

// Normalization is what a backbone expects of its input: (v/255 - Mean)/Std for every channel value v, in the order red,
// green, blue. It is a property of the checkpoint, not of the data set.
type Normalization struct {
	Mean, Std [3]float32 // in units of full intensity
}

// The normalizations of published backbones, under timm's names.
var (
	// ImageNet is the mean and standard deviation of ImageNet's training images: DeiT, MAE, MoCo-v3, Swin, ConvNeXt.
	ImageNet = Normalization{Mean: [3]float32{0.485, 0.456, 0.406}, Std: [3]float32{0.229, 0.224, 0.225}}

	// Inception maps 0…255 to -1…1: the ViTs that Google released, AugReg's too.
	Inception = Normalization{Mean: [3]float32{0.5, 0.5, 0.5}, Std: [3]float32{0.5, 0.5, 0.5}}
)
