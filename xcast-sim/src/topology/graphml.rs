//! GraphML, the format of the Internet Topology Zoo.

use std::{collections::HashMap, io::BufRead};

use quick_xml::{
    Reader,
    escape::unescape,
    events::{BytesStart, Event},
};

use super::{
    connected::{Parts, Topology},
    error::TopologyError,
    graph::RouterId,
};

/// Reads nodes and edges; directions, keys and data are ignored, except that a node's `label`
/// becomes its name. Nodes without edges count as parts of their own.
///
/// # Errors
///
/// It cannot be read, is no XML, an edge names no node, or the graph is not connected and has to
/// be.
pub fn read_graphml(mut input: impl BufRead, parts: Parts) -> Result<Topology, TopologyError> {
    let mut text = String::new();
    input.read_to_string(&mut text)?;
    let mut reader = Reader::from_str(&text);
    let mut found = Found::default();
    loop {
        let event = reader.read_event();
        let line = || {
            1 + text[..reader.buffer_position() as usize]
                .matches('\n')
                .count()
        };
        let syntax = |problem: String| TopologyError::Syntax {
            line: line(),
            problem,
        };
        match event.map_err(|error| syntax(error.to_string()))? {
            Event::Eof => break,
            Event::Start(element) => found.start(&element, true).map_err(syntax)?,
            Event::Empty(element) => found.start(&element, false).map_err(syntax)?,
            Event::Text(content) => {
                let content = content.decode();
                found.text(&content.map_err(|error| syntax(error.to_string()))?);
            }
            // `&amp;` and the like are events of their own.
            Event::GeneralRef(reference) => {
                let name = reference.decode();
                let name = name.map_err(|error| syntax(error.to_string()))?;
                let content = unescape(&format!("&{name};"))
                    .map_err(|error| syntax(error.to_string()))?
                    .into_owned();
                found.text(&content);
            }
            Event::End(element) => found.end(element.local_name().as_ref()),
            _ => {}
        }
    }
    let links = found.links()?;
    Topology::from_file(found.names, &links, parts)
}

/// What has been read.
#[derive(Default)]
struct Found {
    numbers: HashMap<String, RouterId>,
    names: Vec<String>,
    edges: Vec<(String, String)>,
    /// The key that nodes' labels are under.
    label: Option<String>,
    in_node: bool,
    in_label: bool,
    /// What of the label has been read.
    text: String,
}

impl Found {
    fn start(&mut self, element: &BytesStart<'_>, has_content: bool) -> Result<(), String> {
        match element.local_name().as_ref() {
            b"key" => {
                let name = attribute(element, "attr.name")?;
                let target = attribute(element, "for")?;
                if name.as_deref() == Some("label") && target.as_deref() == Some("node") {
                    self.label = attribute(element, "id")?;
                }
            }
            b"node" => {
                let id = required(element, "id")?;
                let number = self.names.len() as RouterId;
                self.names.push(id.clone());
                if self.numbers.insert(id.clone(), number).is_some() {
                    return Err(format!("there are two nodes `{id}`: give each its own id"));
                }
                self.in_node = has_content;
            }
            b"data" if self.in_node => {
                let key = attribute(element, "key")?;
                self.in_label = has_content && key.is_some() && key == self.label;
                self.text.clear();
            }
            b"edge" => self
                .edges
                .push((required(element, "source")?, required(element, "target")?)),
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, content: &str) {
        if self.in_label {
            self.text.push_str(content);
        }
    }

    fn end(&mut self, name: &[u8]) {
        match name {
            b"data" if self.in_label => {
                self.in_label = false;
                if let Some(name) = self.names.last_mut() {
                    self.text.trim().clone_into(name);
                }
            }
            b"node" => self.in_node = false,
            _ => {}
        }
    }

    fn links(&self) -> Result<Vec<(RouterId, RouterId)>, TopologyError> {
        let number = |id: &String| {
            let number = self.numbers.get(id).copied();
            number.ok_or_else(|| TopologyError::UnknownRouter { id: id.clone() })
        };
        self.edges
            .iter()
            .map(|(from, to)| Ok((number(from)?, number(to)?)))
            .collect()
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let found = element
        .try_get_attribute(name)
        .map_err(|error| error.to_string())?;
    found
        .map(|found| {
            let value = String::from_utf8_lossy(&found.value);
            unescape(&value)
                .map(|value| value.into_owned())
                .map_err(|error| error.to_string())
        })
        .transpose()
}

fn required(element: &BytesStart<'_>, name: &str) -> Result<String, String> {
    attribute(element, name)?.ok_or_else(|| {
        let local = element.local_name();
        let element = String::from_utf8_lossy(local.as_ref());
        format!("<{element}> has no attribute {name}: add it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZOO: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
  <key attr.name="Country" attr.type="string" for="node" id="d30" />
  <key attr.name="label" attr.type="string" for="node" id="d33" />
  <key attr.name="LinkLabel" attr.type="string" for="edge" id="d35" />
  <graph edgedefault="undirected">
    <data key="d1">none</data>
    <node id="0"><data key="d30">NL</data><data key="d33">Amsterdam</data></node>
    <node id="1"><data key="d33">London &amp; Sl&#111;ugh</data></node>
    <node id="x"/>
    <node id="alone"/>
    <edge source="0" target="1"><data key="d35">STM-64</data></edge>
    <edge source="1" target="0"/>
    <edge id="e" source="1" target="x"/>
  </graph>
</graphml>"#;

    #[test]
    fn a_file_of_the_zoo() {
        let topology = read_graphml(ZOO.as_bytes(), Parts::Largest).expect("it is good");
        assert_eq!(topology.names, ["Amsterdam", "London & Slough", "x"]);
        assert_eq!(topology.to_edge_list(), "0 1\n1 2\n");
        let error = read_graphml(ZOO.as_bytes(), Parts::Connected).expect_err("one is alone");
        assert!(error.to_string().contains("3 of 4 routers"), "{error}");
    }

    #[test]
    fn errors_name_line_and_remedy() {
        let error = |text: &str| {
            let error = read_graphml(text.as_bytes(), Parts::Largest);
            error.expect_err("it is bad").to_string()
        };
        assert_eq!(
            error("<graphml>\n<node/>\n</graphml>"),
            "line 2: <node> has no attribute id: add it"
        );
        assert_eq!(
            error("<graphml><node id='a'/><edge source='a' target='b'/></graphml>"),
            "an edge names `b`, and there is no such node: add it"
        );
        assert!(error("<graphml>\n<node id='a'></graphml>").starts_with("line 2: "));
        assert_eq!(
            error("<g><node id='a'/><node id='a'/></g>"),
            "line 1: there are two nodes `a`: give each its own id"
        );
    }
}
