// Package backbone holds the pretrained networks that spt fine-tunes: it reads their checkpoints
// and builds their computation graphs.
//
// Begin with [Load], which reads a checkpoint into a [Model]. A Model has three parts:
//
//   - a [Config], which holds the sizes and options of the network
//   - a [Preprocessing], which says how pixels are normalised
//   - the weights, under canonical names: the names that timm uses, with separate q, k and v
//
// [Config.Params] lists the tensors of a backbone. The [Role] of each tensor says whether tuning
// may change it. [Model.Features] builds the graph from images to features, and [Config.Classify]
// builds the head that turns features into logits.
//
// The graph gets every tensor from a [Layers], and passes the result of every layer to it. Package
// peft implements Layers to insert tuned parameters and modules. [Untuned] returns a Layers that
// changes nothing.
//
// An [Architecture] describes a family of backbones: its part of the configuration, the names of
// its tensors in checkpoints, and the functions that build its graph. Three architectures are built
// in: [ViT], [Swin] and [ConvNeXt]. Each has its own group of files. [Register] adds another one.
package backbone
