//! Rows under headings, for people.

/// Space between two columns.
const GAP: &str = "  ";

/// Aligns rows under their headings. A cell without content is shown as a dash, so that columns can be counted.
pub fn table<const COLUMNS: usize>(headings: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let cells = |row: &[String; COLUMNS]| {
        row.each_ref().map(|cell| if cell.is_empty() { "-" } else { cell.as_str() }.to_owned())
    };
    let mut all = vec![headings.map(str::to_owned)];
    all.extend(rows.iter().map(cells));
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS]| {
        let padded: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join(GAP).trim_end())
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["é".to_owned(), String::new()], ["four".to_owned(), "x".to_owned()]];
        assert_eq!(table(["A", "B"], &rows), "A     B\né     -\nfour  x\n");
    }
}
