# This image has not been built yet, because no container engine was at hand.
#
#   docker build -t spt .
#
# Run a command on a folder of images. The folder is mounted at /data, the working directory of the
# image. The files of the run belong to you, and the Hub's cache is kept in huggingface:
#
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" -e HF_HOME=/data/huggingface spt \
#     tune --model hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k --data photos --out run
#
# The image computes on the processor. It has no build for GPUs.

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w' -o /spt ./cmd/spt

# This image contains the CA certificates with which spt verifies the Hugging Face Hub. Its user is
# nonroot, number 65532.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /spt /usr/local/bin/spt
COPY LICENSE /usr/share/doc/spt/LICENSE
WORKDIR /data
ENTRYPOINT ["spt"]
