# docker build -t loss-attention .
# docker run --rm -v "$PWD:/work" loss-attention train photos --data my-images
#
# For a particular build of torch (CPU only, say): --build-arg PIP_INDEX_URL=... of the index that has it.
FROM python:3.11-slim

ARG PIP_INDEX_URL

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir '.[timm,compare]'

RUN useradd --create-home --uid 1000 user
USER 1000
WORKDIR /work
ENTRYPOINT ["loss-attention"]
CMD ["--help"]
