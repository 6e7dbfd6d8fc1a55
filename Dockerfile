# The HTTP service with the included models, on a CPU:
#   docker build -t har_fastai . && docker run -p 8000:8000 har_fastai
# A run of your own: docker run -p 8000:8000 -v "$PWD/runs/photos:/run/photos:ro" har_fastai /run/photos
FROM python:3.12-slim

COPY . /src
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu \
 && pip install --no-cache-dir "/src[serve]" \
 && rm -rf /src \
 && useradd --create-home har

USER har
WORKDIR /home/har
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["har_serve", "--host", "0.0.0.0"]
