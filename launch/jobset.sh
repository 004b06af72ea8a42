# shellcheck shell=bash
# What gke.sh and xpk.sh share: the image of their JobSet, and the log of its container `train`, in terms of KUBECTL.

install() {
  require IMAGE
  call bash -c "git archive HEAD | docker build --tag=$(quoted "$IMAGE") --file=launch/Dockerfile -"
  call docker push "$IMAGE"
}

logs() {
  call "${KUBECTL[@]}" logs --follow --tail=100 --container=train \
    --selector="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
}
