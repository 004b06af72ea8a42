# shellcheck shell=bash
# Shared by gke.sh and xpk.sh, which set KUBECTL: builds the image of their JobSet, and follows the log of its container
# `train`.

install() {
  require IMAGE
  call bash -c "git archive HEAD | docker build --tag=$(quote "$IMAGE") --file=launch/Dockerfile -"
  call docker push "$IMAGE"
}

logs() {
  call "${KUBECTL[@]}" logs --follow --tail=100 --container=train \
    --selector="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
}
