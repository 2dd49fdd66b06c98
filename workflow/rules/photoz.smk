# Photometric redshifts: the sample, the estimators, the results page, a reader's own catalogue, images.
PHOTOZ = f"{RESULTS}/photoz"


rule photoz_data:
    input:
        notebook="notebooks/photoz/1_data.ipynb",
        modules=modules("notebooks/photoz/1_data.ipynb"),
    output:
        notebook="book/photoz/1_data.ipynb",
        sample=f"{PHOTOZ}/sample.parquet",
        example=f"{PHOTOZ}/example_catalogue.csv",
    params:
        parameters=parameters("photoz/1_data"),
        partial=partial("photoz/1_data"),
    shell:
        EXECUTE


rule photoz_train:
    input:
        notebook="notebooks/photoz/2_train.ipynb",
        modules=modules("notebooks/photoz/2_train.ipynb"),
        sample=rules.photoz_data.output.sample,
    output:
        notebook="book/photoz/2_train.ipynb",
        predictions=f"{PHOTOZ}/predictions.parquet",
        metrics=f"{PHOTOZ}/metrics.json",
        weights=f"{PHOTOZ}/ensemble.safetensors",
        densities=f"{PHOTOZ}/densities.hdf5",
    params:
        parameters=parameters("photoz/2_train"),
        partial=partial("photoz/2_train"),
    threads: SHARE
    shell:
        EXECUTE


rule photoz_results:
    input:
        notebook="notebooks/photoz/3_results.ipynb",
        modules=modules("notebooks/photoz/3_results.ipynb"),
        sample=rules.photoz_data.output.sample,
        predictions=rules.photoz_train.output.predictions,
        metrics=rules.photoz_train.output.metrics,
        published=sorted(str(p) for p in Path("data/published/photoz").glob("*")),
    output:
        notebook="book/photoz/3_results.ipynb",
    params:
        parameters=parameters("photoz/3_results"),
        partial=partial("photoz/3_results"),
    shell:
        EXECUTE


rule photoz_predict:
    input:
        notebook="notebooks/photoz/4_predict.ipynb",
        modules=modules("notebooks/photoz/4_predict.ipynb"),
        published=sorted(str(p) for p in Path("data/published/photoz").glob("*")),
        catalogue=rules.photoz_data.output.example,
    output:
        notebook="book/photoz/4_predict.ipynb",
    params:
        parameters=parameters("photoz/4_predict"),
        partial=partial("photoz/4_predict"),
    shell:
        EXECUTE


rule photoz_images:
    input:
        notebook="notebooks/photoz/5_images.ipynb",
        modules=modules("notebooks/photoz/5_images.ipynb"),
        tables=sorted(str(p) for p in Path("data/sky").glob("*.ecsv")),
        published=sorted(str(p) for p in Path("data/published/photoz").glob("images.*")),
    output:
        notebook="book/photoz/5_images.ipynb",
        metrics=f"{PHOTOZ}/images.json",
    params:
        parameters=parameters("photoz/5_images"),
        partial=partial("photoz/5_images"),
    threads: SHARE
    shell:
        EXECUTE
