//! The token cache is used when it is good, and built again when it is not.

use crate::common::{Place, flip, loader_config, prepare};
use bellows_data::{DataError, Dataset, NoProgress};

#[test]
fn the_second_run_takes_the_tokens_from_the_cache_and_sees_the_same_report_and_batches() {
    let place = Place::new();
    let config = place.texts(30);
    let (first, second) = (prepare(&config), prepare(&config));
    assert!(!first.from_cache() && second.from_cache());
    assert_eq!(first.report(), second.report());
    assert_eq!(first.id(), second.id());
    let batch = |dataset: &Dataset| dataset.loader(&loader_config(32, 2)).unwrap().next_batch();
    assert_eq!(batch(&first), batch(&second));
}

#[test]
fn truncated_or_damaged_caches_are_built_again() {
    let place = Place::new();
    let config = place.texts(30);
    let id = prepare(&config).id().clone();
    let folder = place.cache_entry();
    type Damage<'a> = &'a dyn Fn(&std::path::Path);
    let damages: [(&str, Damage); 6] = [
        ("train.bin", &|path| truncate(path, 10)),
        ("train.bin", &|path| flip(path, 100)),
        ("validation.docs", &|path| truncate(path, 24)),
        ("train.docs", &|path| flip(path, 3)),
        ("meta.json", &|path| truncate(path, 50)),
        ("validation.bin", &|path| {
            std::fs::remove_file(path).unwrap()
        }),
    ];
    for (name, damage) in damages {
        damage(&folder.join(name));
        let dataset = prepare(&config);
        assert!(!dataset.from_cache(), "{name}");
        assert_eq!(*dataset.id(), id);
        assert!(prepare(&config).from_cache(), "{name} stays broken");
        assert_eq!(place.cache_entry(), folder);
    }
}

fn truncate(path: &std::path::Path, by: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - by).unwrap();
}

#[test]
fn a_changed_file_or_setting_is_another_corpus() {
    let place = Place::new();
    let mut config = place.texts(30);
    let first = prepare(&config).id().clone();
    place.write("000.txt", "changed\n");
    let second = prepare(&config);
    assert!(!second.from_cache());
    assert_ne!(second.id().fingerprint, first.fingerprint);
    config.validation.fraction = 0.4;
    assert!(!prepare(&config).from_cache());
}

#[test]
fn a_run_goes_on_with_its_own_tokens_though_the_corpus_grew_and_refuses_another_corpus() {
    let place = Place::new();
    let config = place.texts(30);
    let dataset = prepare(&config);
    place.write("new.txt", "a new document\n");
    let again = Dataset::reopen(&config, dataset.id(), &NoProgress).unwrap();
    assert_eq!(again.id(), dataset.id());
    assert_eq!(again.tokenizer().to_json(), dataset.tokenizer().to_json());
    std::fs::remove_dir_all(place.dir.path().join("cache")).unwrap();
    assert!(matches!(
        Dataset::reopen(&config, dataset.id(), &NoProgress),
        Err(DataError::CorpusChanged { .. })
    ));
    std::fs::remove_file(place.path("new.txt")).unwrap();
    assert_eq!(
        Dataset::reopen(&config, dataset.id(), &NoProgress)
            .unwrap()
            .id()
            .fingerprint,
        dataset.id().fingerprint
    );
}

#[test]
fn runs_that_build_the_same_cache_at_once_do_not_disturb_each_other() {
    let place = Place::new();
    let config = place.texts(40);
    let ids: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| prepare(&config).id().clone()))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(prepare(&config).from_cache());
    place.cache_entry();
}
